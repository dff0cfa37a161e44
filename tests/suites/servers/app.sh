#!/bin/sh
# Responds with the request that Apache passes to a CGI program. Header names become variables.
length=$(wc -c)
printf 'Content-Type: text/plain\r\n\r\n'
printf 'app=apache\npath=%s\nhost=%s\nuser=%s\nbody=%s\n' \
    "$PATH_INFO" "$HTTP_HOST" "$HTTP_X_FORWARDED_USER" "$length"
printf 'headers=%s' "$(env | grep '^HTTP_' | tr '\n' '|')"
