/** The page /docs: Swagger UI over this service's own description. */

window.SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // Otherwise Swagger would load a badge from another host.
  validatorUrl: null,
});
