"""Builds the contexts' programs for Lambda and packs them: the same program gives the same zip."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

from .environment import PACKAGE, ROOT, TARGET, Refused, make

# The earliest time that a zip can contain.
EPOCH = (1980, 1, 1, 0, 0, 0)
EXECUTABLE = 0o100755
# The ELF numbers of Lambda's machines. The template uses the first.
MACHINES = {"arm64": 0xB7, "x86_64": 0x3E}


def directory(out):
    """The directory of the programs (`<context>/bootstrap`), their zips and the manifest."""
    return out / "package"


def build(contexts, packages, arch):
    """One `cargo lambda build` for all of them."""
    tools = make(PACKAGE).parent
    cargo_home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    # Otherwise the programs contain paths of the build machine, and differ from those of another.
    remaps = [f"--remap-path-prefix={cargo_home}=/cargo", f"--remap-path-prefix={ROOT}=/encore"]
    if "RUSTFLAGS" in os.environ:
        remaps.append(os.environ["RUSTFLAGS"])
    variables = dict(
        os.environ,
        PATH=f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        RUSTFLAGS=" ".join(remaps),
        # Nothing is stored outside target/.
        CARGO_TARGET_DIR=str(TARGET),
        CARGO_ZIGBUILD_CACHE_DIR=str(TARGET / "zig"),
        XDG_CACHE_HOME=str(TARGET / "zig"),
        ZIG_GLOBAL_CACHE_DIR=str(TARGET / "zig" / "global"),
        ZIG_LOCAL_CACHE_DIR=str(TARGET / "zig" / "local"),
    )
    machine = f"--{arch.replace('_', '-')}"
    command = ["cargo", "lambda", "build", "--release", machine, "--locked", "--lambda-dir", str(packages)]
    for context in contexts:
        command += ["--package", context, "--bin", context]
    try:
        status = subprocess.run(command, cwd=ROOT, env=variables).returncode
    except FileNotFoundError:
        raise Refused("cargo is not in PATH; Rust 1.95 or newer is needed") from None
    if status != 0:
        raise Refused("the programs could not be built; see above")


def pack(contexts, packages, arch):
    """Packs the built programs and writes the manifest: context -> {file, sha256, bytes, program_sha256}."""
    packages.mkdir(parents=True, exist_ok=True)
    manifest, old = read_manifest(packages / "manifest.json"), set()
    for context in contexts:
        program = packages / context / "bootstrap"
        if not program.is_file():
            raise Refused(f"{context} is not built: {program} is missing")
        content = program.read_bytes()
        check_program(context, content, arch)
        new = packages / f".{context}.{os.getpid()}.new"
        write_zip(new, {"bootstrap": content})
        digest, program_digest, size = sha256(new.read_bytes()), sha256(content), new.stat().st_size
        # By the program: another machine's zlib may compress it differently, which is no reason to deploy it again.
        name = f"{context}-{program_digest[:16]}.zip"
        old.add(manifest.get(context, {}).get("file", name))
        new.replace(packages / name)
        manifest[context] = {"file": name, "sha256": digest, "bytes": size, "program_sha256": program_digest}
    text = json.dumps(dict(sorted(manifest.items())), indent=2) + "\n"
    new = packages / f".manifest.{os.getpid()}.new"
    new.write_text(text)
    new.replace(packages / "manifest.json")
    # Only when the manifest does not name them any more.
    for file in old - {entry["file"] for entry in manifest.values()}:
        (packages / file).unlink(missing_ok=True)
    return manifest


def check(contexts, packages):
    """The manifest, and what is wrong: contexts whose package is missing or not as the manifest has it."""
    manifest = read_manifest(packages / "manifest.json")
    wrong = []
    for context in contexts:
        entry = manifest.get(context)
        path = packages / entry["file"] if entry else None
        if path is None or not path.is_file():
            wrong.append(f"{context} is not packaged")
        elif sha256(path.read_bytes()) != entry["sha256"]:
            wrong.append(f"{path.name} is not what the manifest says")
    return manifest, wrong


def files(manifest):
    """Context -> its package's name."""
    return {context: entry["file"] for context, entry in manifest.items()}


def read_manifest(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise Refused(f"{path} is damaged; remove it and package again") from None


def write_zip(path, files):
    """A zip of executables: sorted, without time, user or machine."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            # Otherwise it is that of the packing machine.
            entry.create_system = 3
            entry.external_attr = EXECUTABLE << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name], compresslevel=9)


def check_program(context, content, arch):
    """Lambda would notice only at the first call."""
    if content[:4] != b"\x7fELF" or len(content) < 20:
        raise Refused(f"{context}'s bootstrap is no program")
    (machine,) = struct.unpack_from("<H", content, 18)
    if machine != MACHINES[arch]:
        raise Refused(f"{context}'s bootstrap is not built for {arch}")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def clear(contexts, packages):
    """Removes what an older build left, so that a build without a result cannot pass for one with one."""
    for context in contexts:
        shutil.rmtree(packages / context, ignore_errors=True)
