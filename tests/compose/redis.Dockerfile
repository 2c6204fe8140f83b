FROM redis:7-bookworm
RUN chown redis /data
