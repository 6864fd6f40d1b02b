"""Keys of CKKS and BFV from TenSEAL's contexts. :mod:`he._tenseal` reads the bytes."""

from he import _tenseal
from he._rlwe_format import Format
from he._rlwe_keys import PublicKey, SecretKey, paired
from he.errors import HEError
from he.ring import lanes


def secret_key(scheme: Format, context: bytes) -> SecretKey:
    """See :meth:`Scheme.secret_from_tenseal`."""
    key = _tenseal.read_context(scheme, context)
    if key.secret is None:
        raise HEError("got a TenSEAL context without a secret key; serialize it with save_secret_key=True")
    if scheme.seeded:
        return SecretKey(scheme, key.secret, None)
    return paired(scheme, key.secret, _public_key(scheme, key))


def public_key(scheme: Format, context: bytes) -> PublicKey:
    """See :meth:`Scheme.public_from_tenseal`."""
    return _public_key(scheme, _tenseal.read_context(scheme, context))


def _public_key(scheme: Format, key: _tenseal.ContextKeys) -> PublicKey:
    if key.public is None:
        raise HEError("got a TenSEAL context without a public key, or for a seeded scheme, which has none")
    group = lanes(1, len(key.public), scheme.parameters.degree)
    group[0] = key.public[:, :, None]
    return PublicKey(scheme, scheme._packed(group, 1))
