"""Whether the phase rises with the field, from evidence that no header gives: computed and told, never acted on."""

from recon.signcheck.check import SignCheck, Verdict, check_sign
from recon.signcheck.evidence import Evidence

__all__ = ["Evidence", "SignCheck", "Verdict", "check_sign"]
