"""The one command that is typed on a server: fetches rccmd.pyz over a connection that it can trust, and installs it.

    python3 -I -c '...' HOST:PORT FINGERPRINT SHA256 NAME CODE [options for the installer]

Python 3.9 or newer and nothing else. Nothing is sent before the adapter's certificate has the fingerprint, nothing is
run before the file has the SHA-256, and no clock plays a part. The text has no `'` and nothing that a shell expands,
also not in PowerShell's double quotes, where the two kinds of quotes are exchanged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import pyz

_STEPS = (
    "import sys",
    "adapter,fingerprint,sha256,name,code,*more=sys.argv[1:]",
    'safe=". Nothing was changed here, and the code was not used."',
    'end=lambda why:sys.exit("rccmd: "+why+safe)',
    'sys.excepthook=lambda kind,e,trace:print("rccmd: cannot get the program from "+adapter+": "+(str(e)or '
    "kind.__name__)+safe,file=sys.stderr)",
    'sys.version_info>=(3,9)or end("Python 3.9 or newer is needed, this is "+sys.version.split()[0])',
    "import hashlib,http.client,os,pathlib,shutil,ssl,subprocess,tempfile",
    "tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)",
    "tls.check_hostname=False",
    "tls.verify_mode=ssl.CERT_NONE",
    "web=http.client.HTTPSConnection(adapter,timeout=20,context=tls)",
    "web.connect()",
    "seen=hashlib.sha256(web.sock.getpeercert(True)).hexdigest()",
    'seen==fingerprint or end("STOP: "+adapter+" shows another certificate (SHA-256 "+seen+") than the adapter that '
    'made this command; was it renewed, or is somebody between")',
    f'web.request("GET","/enrol/{pyz.FILE}")',
    "answer=web.getresponse()",
    f"data=answer.read({pyz.LIMIT_BYTES})",
    'answer.status==200 or end(adapter+" answers "+str(answer.status)+" "+answer.reason)',
    f'hashlib.sha256(data).hexdigest()==sha256 or end("{pyz.FILE} is not the file that was promised; if the adapter '
    'was updated, restart it and ask for a new command")',
    "folder=tempfile.TemporaryDirectory()",
    f'file=pathlib.Path(folder.name,"{pyz.FILE}")',
    "file.write_bytes(data)",
    'sudo=["sudo"]if os.name=="posix"and os.geteuid()and shutil.which("sudo")else[]',
    'sys.excepthook=lambda kind,e,trace:print("rccmd: "+(str(e)or kind.__name__),file=sys.stderr)',
    'sys.exit(subprocess.call([*sudo,sys.executable,"-I",str(file),"install","--adapter",adapter,"--fingerprint",fingerprint,'
    '"--name",name,"--code",code,*more]))',
)
TEXT = ";".join(_STEPS)

_PLAIN = re.compile(r"[A-Za-z0-9._:-]+")
_WORD = re.compile(r"[][A-Za-z0-9._:-]+")  # with the brackets of an IPv6 address, which shells expand


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command carries."""

    adapter: str  # HOST:PORT or [IPv6]:PORT
    fingerprint: str  # of the adapter's certificate, 64 lower-case hex digits
    sha256: str  # of rccmd.pyz, likewise
    name: str
    code: str

    def words(self) -> tuple[str, ...]:
        """Its arguments. ValueError for one that no shell could be trusted with."""
        words = (self.adapter, self.fingerprint, self.sha256, self.name, self.code)
        for word in words:
            if not _WORD.fullmatch(word):
                raise ValueError(f"{word!r} cannot stand in a command")
        return words


def for_sh(order: Order) -> str:
    """The command for sh and its kin (Linux, macOS), one line."""
    words = (word if _PLAIN.fullmatch(word) else f"'{word}'" for word in order.words())
    return " ".join(["python3", "-I", "-c", f"'{TEXT}'", *words])


def for_powershell(order: Order) -> str:
    """The command for Windows, one line: PowerShell of any version, and cmd.exe."""
    swapped = TEXT.replace('"', "'")
    words = (word if _PLAIN.fullmatch(word) else f'"{word}"' for word in order.words())
    return " ".join(["py", "-3", "-I", "-c", f'"{swapped}"', *words])
