"""Build Dockerfile.cpu and run it, without Docker.

python -m tools.image_test [ARTIFACT [EMBEDDER]]

ARTIFACT (inside this repository) is baked in and used; without one the image serves the mock.
EMBEDDER is mounted and used afterwards.

Needs root on a Debian-like system, debootstrap (makes a Debian 12 base) and buildah (runs the
Dockerfile in a chroot). The image then runs as under an orchestrator: an unprivileged user, a
read-only root, no network but its own loopback. Packages come through this machine's pip and apt
settings, which must not end up in the image. Base, wheels and layers are kept under
build/image-test; remove that directory to start over.
"""

import signal
import sys
from pathlib import Path

from tools.image_test.build import CACHE, ROOT, Unbuildable, build_image, check_host
from tools.image_test.checks import Report, check_contents, check_embedder, check_runs


def main() -> int:
    # Turn SIGTERM into an exception, so that containers and mounts are always removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    artifact, embedder = [*(Path(name).resolve() for name in sys.argv[1:3]), None, None][:2]
    report = Report()
    try:
        check_host(artifact)
        with build_image(artifact) as image:
            sys.stdout.write(
                f"built in {image.build_s:.0f} s: {image.size_mb} MB, "
                f"{image.size_mb - image.base_mb} MB of it on top of the base "
                f"(cache: {CACHE.relative_to(ROOT)})\n"
            )
            check_contents(report, image)
            check_runs(report, image, artifact)
            if embedder is not None:
                check_embedder(report, image, embedder)
    except Unbuildable as error:
        report.add("the image is built", ok=False, found=str(error))
    sys.stdout.write(f"{report.passed} passed, {report.failed} failed\n")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
