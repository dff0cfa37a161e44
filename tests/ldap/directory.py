"""OpenLDAP as a child process, with users, groups and a password policy."""

import contextlib
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

from child import Child, free_port

SUFFIX = "dc=test"
ADMIN = f"cn=admin,{SUFFIX}"
SERVICE = f"cn=doorward,{SUFFIX}"
PASSWORD = "a password of the directory"

CONFIG = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
moduleload ppolicy
TLSCACertificateFile {certs}/ca.pem
TLSCertificateFile {certs}/doorward.pem
TLSCertificateKeyFile {certs}/doorward.key
security simple_bind=128
pidfile {home}/slapd.pid

database mdb
suffix "{suffix}"
rootdn "{admin}"
rootpw "{password}"
directory {home}/data
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{service}" read by * none
overlay memberof
overlay ppolicy
ppolicy_default "cn=policy,{suffix}"
"""

ENTRIES = f"""\
dn: {SUFFIX}
objectClass: dcObject
objectClass: organization
o: test

dn: cn=policy,{SUFFIX}
objectClass: pwdPolicy
objectClass: device
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: 3
pwdMustChange: TRUE

dn: {SERVICE}
objectClass: organizationalRole
objectClass: simpleSecurityObject
userPassword: {PASSWORD}

dn: ou=people,{SUFFIX}
objectClass: organizationalUnit

dn: ou=groups,{SUFFIX}
objectClass: organizationalUnit
"""

PERSON = """
dn: uid={name},ou=people,{suffix}
objectClass: inetOrgPerson
cn: {name}
sn: {name}
mail: {name}@example.test
userPassword: {password}
"""

STAFF = f"""
dn: cn=staff,ou=groups,{SUFFIX}
objectClass: groupOfNames
"""


class Directory:
    """A server that can be stopped and started again on the same ports."""

    def __init__(self, home: pathlib.Path, certs: pathlib.Path):
        self.home = home
        self.certs = certs
        self.port, self.tls_port = free_port(), free_port()
        # A copy, because security modules confine the installed program to its own directories.
        self.program = home / "slapd"
        shutil.copy("/usr/sbin/slapd", self.program)
        (home / "data").mkdir()
        places = {"home": home, "certs": certs, "suffix": SUFFIX, "admin": ADMIN}
        config = CONFIG.format(**places, service=SERVICE, password=PASSWORD)
        (home / "slapd.conf").write_text(config)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        argv = [str(self.program), "-f", str(self.home / "slapd.conf"), "-h", urls, "-d", "0"]
        with Child(argv, self.home / "slapd.log") as child:
            child.wait_until(self._responds)
            yield

    def fill(self, people: list[str], staff: list[str]) -> None:
        """Adds entries. Only entries that are added while the server runs get `memberOf`."""
        text = ENTRIES
        for name in people:
            text += PERSON.format(name=name, suffix=SUFFIX, password=PASSWORD)
        text += STAFF
        for name in staff:
            text += f"member: uid={name},ou=people,{SUFFIX}\n"
        self._client("ldapadd", text)

    def replace(self, name: str, attribute: str, value: str) -> None:
        dn = f"uid={name},ou=people,{SUFFIX}"
        self._client("ldapmodify", f"dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n")

    def _client(self, program: str, text: str) -> None:
        done = subprocess.run(self._argv(program), input=text, capture_output=True, text=True, timeout=30, env=self._env())
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr}")

    def _responds(self) -> bool:
        argv = [*self._argv("ldapsearch"), "-b", "", "-s", "base"]
        return subprocess.run(argv, capture_output=True, timeout=30, env=self._env()).returncode == 0

    def _argv(self, program: str) -> list[str]:
        return [program, "-x", "-ZZ", "-H", f"ldap://localhost:{self.port}", "-D", ADMIN, "-w", PASSWORD]

    def _env(self) -> dict[str, str]:
        # The gateway verifies the certificate. GnuTLS rejects the constraints of the development CA.
        return {"LDAPTLS_REQCERT": "never", "PATH": "/usr/bin:/bin"}
