"""Files for tests of settings: configuration, certificates and keys."""

import pytest
import trustme


@pytest.fixture
def write(tmp_path):
    """Write a file of this name and text; return its path."""

    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def pem(tmp_path_factory):
    """A folder with a certificate and key, and another key that does not belong to it."""
    folder = tmp_path_factory.mktemp("pem")
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    ca.issue_cert("localhost").private_key_pem.write_to_path(str(folder / "other.pem"))
    return folder
