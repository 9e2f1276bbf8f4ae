"""Ecash: Y, blinding, unblinding, DLEQ proofs, keyset ids and NUT-13 outputs (NUT-00, 02, 12, 13). Pure."""

from melt.ecash.curve import blind, dleq_holds, is_point, is_scalar, proof_dleq_holds, unblind, y_of
from melt.ecash.keyset_id import KeysetIdVersion, keyset_id_matches, keyset_id_version
from melt.ecash.seed import Seed

__all__ = [
    "KeysetIdVersion",
    "Seed",
    "blind",
    "dleq_holds",
    "is_point",
    "is_scalar",
    "keyset_id_matches",
    "keyset_id_version",
    "proof_dleq_holds",
    "unblind",
    "y_of",
]
