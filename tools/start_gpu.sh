#!/bin/sh
# The entrypoint of the GPU image: starts the server, after `rerank-export build` if
# RERANK_BUILD_TARGET names a TensorRT target. The plan stays in NIM_CACHE_PATH for later starts;
# another model, target, GPU or TensorRT version gets its own plan. The plan replaces the model in
# the variable that named it, so that an embedder beside it stays.
set -eu
# Process 1 of a container has no default signal handlers.
trap 'exit 0' TERM INT

if [ -z "${RERANK_BUILD_TARGET:-}" ]; then
    exec rerank-serve "$@"
fi

fail() {
    echo "start: $1" >&2
    exit 2
}

# Refuse options: they override variables, so the plan would be built and another model served. The
# server accepts their abbreviations, too.
for argument in "$@"; do
    case $argument in
    --r* | --e*) fail "RERANK_BUILD_TARGET: found the option $argument as well, wanted the model in \
NIM_CUSTOM_MODEL, or in RERANK_MODEL_DIR and an embedder beside it in EMBED_MODEL_DIR" ;;
    esac
done

source=NIM_CUSTOM_MODEL
[ -n "${NIM_CUSTOM_MODEL:-}" ] || source=RERANK_MODEL_DIR
model=${NIM_CUSTOM_MODEL:-${RERANK_MODEL_DIR:-}}
cache=${NIM_CACHE_PATH:-}
[ -n "$cache" ] || fail "RERANK_BUILD_TARGET: found no NIM_CACHE_PATH, wanted a directory that stays"
[ -f "$model/manifest.json" ] || fail "RERANK_BUILD_TARGET: found no manifest.json in '$model', \
wanted an artifact of rerank-export in NIM_CUSTOM_MODEL or RERANK_MODEL_DIR"
mkdir -p "$cache/plans" && [ -w "$cache/plans" ] || fail "NIM_CACHE_PATH: found a directory that \
user $(id -u) cannot write to, wanted one that it owns: chown it, or run with --user"

machine=$(python3 -c 'from runtime.engines.tensorrt import tensorrt_version
from runtime.gpu import find_gpu
gpu = find_gpu()
print(f"sm{gpu.compute_capability}-tensorrt{tensorrt_version()}" if gpu else "")') ||
    fail "RERANK_BUILD_TARGET: found no TensorRT, see above"
[ -n "$machine" ] || fail "RERANK_BUILD_TARGET: found no NVIDIA GPU, wanted docker run --gpus all"

# The image may have the builder's libraries for some cards only (Dockerfile.gpu).
cards=$(cat "$(dirname "$0")/../share/plan-cards" 2>/dev/null || echo all)
card=$(echo "${machine#sm}" | cut -d- -f1 | tr -d .)
case " $cards " in
*" all "* | *" $card "*) ;;
*) fail "RERANK_BUILD_TARGET: found an image that builds plans for the cards '$cards', wanted $card: \
build the image with --build-arg PLAN_CARDS=$card, or mount an artifact that has its plan" ;;
esac

artifact="$cache/plans/$(sha256sum "$model/manifest.json" | cut -c1-12)-$RERANK_BUILD_TARGET-$machine"
if [ ! -f "$artifact/manifest.json" ]; then
    echo "start: building a plan for $RERANK_BUILD_TARGET, which takes minutes" >&2
    # In the background, because the shell handles signals only between foreground commands; trapped
    # before it starts, as a signal may come at once.
    trap 'kill "${!:-}" 2>/dev/null || :; wait; exit 0' TERM INT
    # Containers that share the cache wait for the one that builds, and use its plan.
    flock --no-fork "$cache/plans/.lock" sh -c '[ -f "$0/manifest.json" ] || exec "$@"' "$artifact" \
        rerank-export build "$model" --target "$RERANK_BUILD_TARGET" --out "$artifact" \
        --timing-cache "$cache/plans/$machine.timing" &
    wait "$!"
fi
export "$source=$artifact"
exec rerank-serve "$@"
