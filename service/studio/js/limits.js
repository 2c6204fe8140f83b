/** Parameters of each kind of job, from the OpenAPI description: limits and defaults are not repeated here. */

const KINDS = ["generate", "v2a", "a2v", "edit"];

/**
 * Parameters by kind of job: `{fields: Field[], accept: string}`, where `accept` names the usual media types of the
 * upload. A Field is `{name, type, options, gains, minimum, maximum, longest, default, description}`; `default` is undefined
 * if the service chooses, `longest` the most characters of a `text`. Parameters with structured values (metadata, webhooks) have no field here, but `mix` has. A kind that
 * the service does not have is absent.
 */
export function readLimits(description) {
  const offered = KINDS.filter((kind) => description.paths[`/${kind}`]);
  return Object.fromEntries(offered.map((kind) => [kind, ofKind(description, kind)]));
}

function ofKind(description, kind) {
  const [body] = Object.values(description.paths[`/${kind}`].post.requestBody.content);
  const { properties } = resolve(description, body.schema);
  const fields = Object.entries(properties)
    .filter(([name]) => name !== "file" && name !== "params")
    .map(([name, schema]) => field(name, resolve(description, schema)))
    .filter(Boolean);
  return { fields, accept: body.encoding?.file?.contentType ?? "" };
}

function resolve(description, schema) {
  const name = schema.$ref?.split("/").pop();
  return name ? { ...description.components.schemas[name], ...schema } : schema;
}

function field(name, schema) {
  const plain = { ...schema, ...schema.anyOf?.find((choice) => choice.type !== "null") };
  if (name === "mix") plain.type = "mix"; // a choice, or gains
  if (plain.type === "string" && plain.maxLength) plain.type = "text"; // words of the user's own
  if (!["integer", "number", "boolean", "string", "mix", "text"].includes(plain.type)) return null;
  if (plain.type === "string" && !plain.enum && name !== "model") return null;
  return {
    name,
    type: plain.type,
    options: plain.enum ?? null,
    gains: schema.anyOf?.find((choice) => choice.type === "object")?.properties ?? null,
    minimum: plain.minimum,
    maximum: plain.maximum,
    longest: plain.maxLength,
    default: schema.default ?? undefined,
    description: plain.description ?? "",
  };
}

/** The allowed values of a field, in words. */
export function allowed({ type, minimum, maximum, options }) {
  if (options) return `one of ${options.join(", ")}`;
  const words = type === "integer" ? "a whole number" : "a number";
  if (minimum !== undefined && maximum !== undefined) return `${words} from ${minimum} to ${maximum}`;
  return minimum === undefined ? words : `${words} of at least ${minimum}`;
}
