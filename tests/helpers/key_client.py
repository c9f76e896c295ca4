"""An application as a client of its node, by the standard library alone."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path


class Application:
    """Asks the node at ``url`` under the certificate of ``sae``."""

    def __init__(self, folder: Path, sae: str, url: str) -> None:
        where = folder / "secrets" / f"sae-{sae}"
        self.url = url
        self._tls = ssl.create_default_context(cafile=str(where / "ca.pem"))
        self._tls.load_cert_chain(where / "cert.pem", where / "key.pem")

    def ask(self, path: str) -> dict[str, str]:
        """Keys (base64) by id; none while the node has none to give (503).

        Raises HTTPError for what can never be granted, URLError or OSError where the node is not there.
        """
        address = f"{self.url}/api/v1/keys/{path}"
        try:
            with urllib.request.urlopen(address, context=self._tls, timeout=20) as answer:
                return {key["key_ID"]: key["key"] for key in json.load(answer)["keys"]}
        except urllib.error.HTTPError as refused:
            if refused.code != 503:
                raise
            return {}
