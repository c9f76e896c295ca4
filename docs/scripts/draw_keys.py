"""Keys between two applications, with the standard library alone; docs/keys-to-applications.md explains it.

``python draw_keys.py MASTER_KME SLAVE_KME MASTER_FOLDER SLAVE_FOLDER`` plays both applications on one machine: KMEs are
addresses (``https://HOST:PORT``), folders those of certificates, named ``sae-NAME``.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit


class Application:
    """One application and its connection to its own node, which stays open."""

    def __init__(self, kme: str, folder: Path) -> None:
        """``folder`` holds ``cert.pem``, ``key.pem`` and ``ca.pem``."""
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._connection = http.client.HTTPSConnection(urlsplit(kme).netloc, context=context, timeout=30)

    def fresh_keys(self, slave: str, number: int, size_bits: int) -> dict[str, bytes]:
        """As the master: ``number`` keys of ``size_bits`` shared with ``slave``; key by id."""
        return self._keys(f"{quote(slave, safe='')}/enc_keys", {"number": number, "size": size_bits})

    def keys_of(self, master: str, key_ids: list[str]) -> dict[str, bytes]:
        """As the slave: its copies of these keys, each once."""
        wanted = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        return self._keys(f"{quote(master, safe='')}/dec_keys", wanted)

    def _keys(self, path: str, body: dict[str, object]) -> dict[str, bytes]:
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", f"/api/v1/keys/{path}", json.dumps(body), headers)
        answer = self._connection.getresponse()
        told = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {told['message']}")
        return {each["key_ID"]: base64.b64decode(each["key"]) for each in told["keys"]}


def main(master_kme: str, slave_kme: str, master_folder: str, slave_folder: str) -> None:
    master, slave = (Path(folder).name.removeprefix("sae-") for folder in (master_folder, slave_folder))
    mine = Application(master_kme, Path(master_folder)).fresh_keys(slave, 3, 256)
    theirs = Application(slave_kme, Path(slave_folder)).keys_of(master, list(mine))
    print(f"{len(mine)} keys of 256 bits at {master} and {slave}, alike: {mine == theirs}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, RuntimeError) as error:  # nobody is there, no certificate fits, or the node refuses
        sys.exit(str(error))
