#!/usr/bin/env bash
# An authority of one's own, and a certificate for client, scheduler and workers: make_certificates.sh FOLDER [DAYS]
# Dask checks who signed, not for which host. Whoever can read key.pem can run code as you on the cluster.
set -euo pipefail
folder=${1:?a new folder} days=${2:-365}
umask 077
mkdir "$folder"
cd "$folder"
openssl req -x509 -newkey rsa:3072 -nodes -days "$days" -subj "/CN=dpm authority" -keyout ca-key.pem -out ca.pem \
    -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
openssl req -new -newkey rsa:3072 -nodes -subj "/CN=dpm" -keyout key.pem -out request.pem 2>/dev/null
printf 'extendedKeyUsage=serverAuth,clientAuth\n' > extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days "$days" -extfile extensions -out cert.pem 2>/dev/null
rm -f request.pem extensions ca-key.pem ca.srl
