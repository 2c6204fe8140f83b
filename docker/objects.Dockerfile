# The S3 server of the stack: versitygw, with a folder for its volume that belongs to an unprivileged user. A named volume
# takes its owner from the folder of the image that it is mounted on first.
FROM versity/versitygw:v1.8.0
RUN mkdir /objects && chown 10001:10001 /objects
USER 10001:10001
# It takes its secret from the environment only; the stack keeps it in a file.
ENTRYPOINT ["/bin/sh", "-c", "ROOT_SECRET_KEY=$(cat /secrets/duet_s3_secret_key) exec versitygw posix /objects"]
