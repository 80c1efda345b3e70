#!/bin/bash
# Writes the narinfos of this folder with the nix on the PATH:
#   generate.sh <folder for the narinfos>
# nix-2.8 is what Nix 2.8.0 wrote, nix-2.34.8 what 2.34.8 wrote otherwise.
# Needs bash, a writable /nix/store and no network. The signing keys are
# nixtest.NewKey("test-1") and nixtest.NewKey("other-1"): known to everyone,
# good for tests only.
set -euo pipefail
out=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf %s 'test-1:+uSnC5wBKWk+e6K7hrC0pUZpfC0XC+Z4e8guPgdYcdN8KUDlczqeIa4RremhpHtTf91NXowcvKKwsDHkmer7Hg==' >"$work/test-1"
printf %s 'other-1:CR1LKa2Pn9edQh8miTKDVewegBXBSrnDGJMUGjw0tsOgGjrkWVTRSE4DVbawfX37hW1v3C/1E9lWE+eDnqihrg==' >"$work/other-1"

mkdir "$work/conf" "$work/tree"
cat >"$work/conf/nix.conf" <<CONF
experimental-features = nix-command
build-users-group =
sandbox = false
substituters =
CONF
export NIX_CONF_DIR=$work/conf XDG_CACHE_HOME=$work/cache HOME=$work NIX_REMOTE=local
unset NIX_PATH

echo tree >"$work/tree/file"
cat >"$work/default.nix" <<'NIX'
let
  mk = attrs: derivation ({
    system = builtins.currentSystem;
    builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  } // attrs);
  build = name: script: mk { inherit name; args = [ "-c" script ]; };
  fixed = mode: algorithm: mk {
    name = "fixed-${mode}-${algorithm}";
    args = [ "-c" "echo fixed >$out" ];
    outputHashMode = mode; outputHashAlgo = algorithm;
    outputHash = builtins.getEnv "${mode}_${algorithm}";
  };
  algorithms = [ "md5" "sha1" "sha256" "sha512" ];
  text = builtins.toFile "text.txt" "text\n";
in rec {
  inherit text;
  texts = builtins.toFile "texts.txt" "refers to ${text}\n";
  plain = build "plain-1.0" "echo plain >$out";
  self = build "self-1.0" "mkdir $out; echo $out ${texts} >$out/self";
  top = build "top+odd_name=2.0?x" "mkdir $out; echo ${self} ${plain} ${tree} >$out/refs";
  tree = builtins.path { path = ./tree; name = "tree"; };
  fixedOutputs = map (fixed "flat") algorithms ++ map (fixed "recursive") algorithms;
}
NIX
echo fixed >"$work/fixed"
for algorithm in md5 sha1 sha256 sha512; do
  export "flat_$algorithm=$(nix-hash --flat --type $algorithm "$work/fixed")"
  export "recursive_$algorithm=$(nix-hash --type $algorithm "$work/fixed")"
done

build() { nix-build --no-out-link "$work/default.nix" -A "$1" 2>/dev/null; }
eval_path() { nix-instantiate --eval --json "$work/default.nix" -A "$1" | tr -d '"'; }
# The paths of a JSON answer, in the forms that versions of Nix have given it.
rewritten() { grep -o '/nix/store/[^"]*' | grep -- "-$1\$" | tail -n 1; }

top=$(build top)
self=$(build self)
mapfile -t fixed < <(build fixedOutputs)
texts=$(eval_path texts)
addressed=$(nix store make-content-addressed --json "$self" | rewritten self-1.0)
added=$(nix store add-path --name added "$work/tree")
added_file=$(nix store add-file --name added-file "$work/fixed")
drv=$(nix-instantiate "$work/default.nix" -A top 2>/dev/null)

paths=("$top" "${fixed[@]}" "$texts" "$addressed" "$added" "$added_file")
nix store sign -r -k "$work/test-1" "${paths[@]}"
nix store sign -r -k "$work/test-1" --derivation "$drv"
nix store sign -k "$work/other-1" "$top" "$added"

mkdir -p "$out"
for compression in xz none bzip2 gzip zstd br lzip lz4; do
  cache=$work/$compression
  if [ $compression = xz ]; then
    nix copy --to "file://$cache" "${paths[@]}"
    nix copy --to "file://$cache" --derivation "$drv"
  else
    nix copy --to "file://$cache?compression=$compression" "$(build plain)"
  fi
  for narinfo in "$cache"/*.narinfo; do
    name=$(sed -n 's,^StorePath: /nix/store/[^-]*-,,p' "$narinfo")
    cp "$narinfo" "$out/${name//[^0-9a-zA-Z.-]/_}.$(basename "$narinfo" .narinfo | cut -c1-6).$compression.narinfo"
  done
done
