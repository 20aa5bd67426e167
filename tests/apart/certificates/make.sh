#!/usr/bin/env bash
# Makes the certificates of the tests anew. They are good for a hundred years, and for nothing but the tests.
set -euo pipefail
cd "$(dirname "$0")"

authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj "/CN=$1" \
    -keyout "$1.key" -out "$1.pem" -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
}

# NAME AUTHORITY ALTERNATIVE-NAMES
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 36500 -out "$1.pem" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3")
  rm "$1.csr"
}

authority authority
authority impostor
certificate server authority DNS:localhost,IP:127.0.0.1
certificate client authority DNS:client.test
certificate elsewhere authority DNS:elsewhere.test
certificate stranger impostor DNS:localhost,IP:127.0.0.1
# Nothing more is to be signed.
rm -f authority.key impostor.key *.srl
