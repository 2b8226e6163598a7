#!/usr/bin/env bash
# Installs xpk, with which `maxtext-sparse launch xpk` and `sweep submit` reach a cluster: bash launch/xpk.sh [FOLDER]
#
# In an environment of its own, .venv-xpk of this checkout by default: beside MaxText it would downgrade protobuf, pyyaml
# and others. Submitting for real also needs gcloud, its gke-gcloud-auth-plugin and kubectl, logged in; a --dry-run none.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="$(realpath -m "${1:-$repository/.venv-xpk}")"
cd "$repository"

python3.12 -m venv "$folder"
"$folder/bin/pip" install --quiet -c launch/constraints/xpk.txt xpk==1.16.0
echo "xpk is installed; name it in this shell with:"
echo "  export XPK=$folder/bin/xpk"
