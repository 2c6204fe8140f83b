# The S3 server of the stack: versitygw, with a folder for its volume that belongs to an unprivileged user. A new named
# volume takes the owner of the folder that it is mounted on.
ARG VERSITYGW=versity/versitygw:v1.8.0
FROM ${VERSITYGW}
RUN mkdir /objects && chown 10001:10001 /objects
USER 10001:10001
# versitygw reads its secret from the environment only; the stack keeps it in a file.
ENTRYPOINT ["/bin/sh", "-c", "ROOT_SECRET_KEY=$(cat /secrets/duet_s3_secret_key) && export ROOT_SECRET_KEY && exec versitygw posix /objects"]
