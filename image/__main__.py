"""`./run image`: the whole way from Debian's packages to the compressed image, in steps that are kept."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from . import base, fetch, kernel, layout, root, sbom, signed, wheels
from .step import BuildError, Steps, digest, run

HERE = Path(__file__).parent
ROOT = HERE.parent
TOOLS = (
    "mmdebstrap", "mksquashfs", "mkfs.vfat", "mcopy", "mke2fs", "cpio", "depmod", "modprobe", "zstd", "dpkg-deb",
    "apt-get",
)  # fmt: skip


def epoch_s() -> int:
    """The time that stands on everything: SOURCE_DATE_EPOCH, or that of the last change of this version."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    try:
        return int(run(["git", "log", "-1", "--format=%ct"], cwd=ROOT))
    except (BuildError, ValueError):
        return int((ROOT / "CHANGELOG.md").stat().st_mtime)


def version() -> str:
    """The agent's version."""
    sys.path.insert(0, str(ROOT))
    from agent.model import VERSION

    return VERSION


def place():  # type: ignore[no-untyped-def]
    """What `./run install` puts onto a machine: the image gets the same."""
    sys.path.insert(0, str(ROOT / "systemd"))
    import place as found

    return found


def compiled(folder: Path, base_tar: Path) -> None:
    """Compile what is in `folder`/ridethrough with the board's own Python under emulation: the root is never
    written, so it would be compiled anew at each start."""
    target = folder / "root"
    target.mkdir()
    wanted = ("usr/bin/python3", "usr/lib/python3", "usr/lib/aarch64", "usr/lib/ld-", "lib", "bin", "etc/ld.so")
    names = ("--wildcards", *(f"./{name}*" for name in wanted))
    run(["tar", "-C", target, "--no-same-owner", "--exclude=./dev/*", "-xf", base_tar, *names])
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator is None:
        raise BuildError("qemu-aarch64-static is missing; mend with: apt-get install qemu-user-static")
    python = target / "usr/bin" / f"python{wheels.PYTHON}"
    words = [
        "-I",
        "-m",
        "compileall",
        "-q",
        "-j",
        "1",
        "--invalidation-mode",
        "unchecked-hash",
        "-s",
        folder,
        "-p",
        "/opt",
    ]
    run([emulator, "-L", target, python, *words, folder / "ridethrough/lib"])
    shutil.rmtree(target)


def build(cache: Path, out: Path, fresh: bool, key: Path | None = None) -> Path:
    """Build the image; its path. With `key` an update beside it. BuildError with the remedy."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ.get('PATH')}:/usr/sbin:/sbin") is None]
    if missing:
        raise BuildError(f"missing: {', '.join(missing)}; `./run image` installs them when it runs as root")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    when, what = epoch_s(), version()
    steps = Steps(cache, 8)
    if fresh:
        shutil.rmtree(cache / "base", ignore_errors=True)
        shutil.rmtree(cache / "packages", ignore_errors=True)
    base_key = digest(HERE / "base.py")
    base_tar = steps.step("base", base_key, base.build) / "base.tar"
    packages_key = digest(base_key, HERE / "fetch.py")
    packages = steps.step("packages", packages_key, lambda folder: fetch.fetch(base_tar, folder))
    kernel_key = digest(packages_key, HERE / "kernel.py", HERE / "init")
    core = steps.step("kernel", kernel_key, lambda folder: kernel.build(packages, folder))
    fetched = steps.step("wheels", wheels.key(), wheels.download)
    library_key = digest(wheels.key(), HERE / "wheels.py", base_key)

    def libraries(folder: Path) -> None:
        wheels.libraries(fetched, folder / "ridethrough")
        compiled(folder, base_tar)

    def agent(folder: Path) -> None:
        wheels.agent(folder / "ridethrough")
        compiled(folder, base_tar)

    library = steps.step("libraries", library_key, libraries)
    code_key = digest(HERE / "wheels.py", base_key, ROOT / "agent", ROOT / "README.md")
    code = steps.step("agent", code_key, agent)
    system = place()
    keys = {f"/usr/share/ridethrough/update-keys/{p.name}": p.read_text() for p in sorted(HERE.glob("keys/*.pub"))}
    ours = root.entries(
        {**system.files(), **keys},
        (
            ("", HERE / "files"),
            ("opt/ridethrough", library / "ridethrough"),
            ("opt/ridethrough", code / "ridethrough"),
            ("usr/lib", core / "root/usr/lib"),
        ),
        layout.SIGNATURE,
    )
    for unit, target in system.ENABLED.items():
        ours[f"etc/systemd/system/{target}.wants/{unit}"] = root.File(link=f"/etc/systemd/system/{unit}")
    ours["etc/ridethrough-version"] = root.File(f"{what}\n".encode())
    root_key = digest(
        base_key,
        library_key,
        code_key,
        kernel_key,
        HERE / "root.py",
        HERE / "files",
        *keys.values(),
        ROOT / "systemd",
        str(when),
    )
    squash = steps.step(
        "root", root_key, lambda folder: root.squashfs(folder / "root.squashfs", base_tar, ours, when)
    )
    name = f"ridethrough-{what}-{base.ARCH}"

    def card(folder: Path) -> None:
        (folder / "boot").mkdir()
        readme = (HERE / "boot-readme.txt").read_text()
        layout.boot_files(
            folder / "boot", core / "slot", core / "firmware",
            {"README.txt": readme, "ridethrough.toml.example": (HERE / "ridethrough.toml.example").read_text()},
        )  # fmt: skip
        sizes = layout.Sizes()
        layout.fat(folder / "boot.fat", folder / "boot", sizes.boot, when)
        layout.data(folder / "data.ext4", sizes.data, when)
        parts = {1: folder / "boot.fat", 2: squash / "root.squashfs", 4: folder / "data.ext4"}
        layout.assemble(folder / f"{name}.img", sizes, parts)
        for path in (folder / "boot.fat", folder / "data.ext4"):
            path.unlink()
        shutil.rmtree(folder / "boot")
        run(["zstd", "-q", "-f", "-T0", "-12", folder / f"{name}.img", "-o", folder / f"{name}.img.zst"])

    card_key = digest(
        root_key, kernel_key, HERE / "layout.py", HERE / "boot-readme.txt", HERE / "ridethrough.toml.example"
    )
    made = steps.step("card", card_key, card)
    out.mkdir(parents=True, exist_ok=True)
    parts = sbom.debian(base_tar, packages.glob("*.deb")) + sbom.python(fetched.glob("*.whl"), what)
    shutil.copyfile(made / f"{name}.img.zst", out / f"{name}.img.zst")
    with (out / f"{name}.img.zst").open("rb") as file:
        total = hashlib.file_digest(file, "sha256").hexdigest()
    (out / f"{name}.img.zst.sha256").write_text(f"{total}  {name}.img.zst\n")
    (out / f"{name}.packages.txt").write_text(sbom.package_list(parts))
    stamp = datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    (out / f"{name}.cdx.json").write_text(sbom.cyclonedx(parts, what, stamp))
    if key is not None:
        signed.make(core / "slot", squash / "root.squashfs", what, when, key, out / f"{name}.update")
    return out / f"{name}.img.zst"


def main() -> int:
    """0; 1 if it could not be built."""
    parser = argparse.ArgumentParser(prog="./run image", description="Build the image for the card.")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "build/image", metavar="DIR", help="where the steps are kept"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build", metavar="DIR", help="where the image goes")
    parser.add_argument("--fresh", action="store_true", help="fetch Debian's packages anew")
    parser.add_argument("--sign", type=Path, metavar="KEY", help="make an update, too (docs/updates.md)")
    args = parser.parse_args()
    try:
        path = build(args.cache.resolve(), args.out.resolve(), args.fresh, args.sign)
    except (BuildError, OSError, subprocess.SubprocessError) as e:
        print(f"./run image: {e}", file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; {path.name}.sha256, package list and SBOM beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
