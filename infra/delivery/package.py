"""infra/package: builds the programs and packs them for Lambda, under target/package/, with a manifest.

The same sources give the same zips, as the printed SHA-256 sums show.
"""

import argparse
import sys

from . import packages
from .environment import Refused, out_dir, outcome
from .system import System


def package(contexts, directory, build=True, arch="arm64"):
    """Builds and packs; returns the manifest."""
    if build:
        packages.clear(contexts, directory)
        packages.build(contexts, directory, arch)
    return packages.pack(contexts, directory, arch)


def chosen(only, known):
    for context in only:
        if context not in known:
            raise Refused(f"there is no context {context}; there are {', '.join(known)}")
    return only or known


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="infra/package", description="Builds and packs the contexts' programs.")
    parser.add_argument("contexts", nargs="*", metavar="CONTEXT", help="these only [default: all]")
    parser.add_argument("--no-build", action="store_true", help="pack what is built already")
    parser.add_argument("--arch", choices=packages.MACHINES, default="arm64", help="the machine [default: arm64]")
    out_dir(parser)
    options = parser.parse_args(arguments)
    directory = packages.directory(options.out_dir)

    def work(_):
        contexts = chosen(options.contexts, System.read().contexts())
        manifest = package(contexts, directory, not options.no_build, options.arch)
        for context in contexts:
            entry = manifest[context]
            print(f"{entry['sha256']}  {directory / entry['file']}")

    return outcome("package", work)


if __name__ == "__main__":
    sys.exit(main())
