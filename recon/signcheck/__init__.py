"""Whether the phase rises with the field, from evidence that no header gives: computed and told, never acted on."""

from recon.signcheck.check import SignCheck, check_sign
from recon.signcheck.evidence import Evidence, Verdict

__all__ = ["Evidence", "SignCheck", "Verdict", "check_sign"]
