"""What a live run has accepted and no checkpoint has learned from yet, kept on disk."""

from optix_stream.journal.acceptance import Acceptance
from optix_stream.journal.journal import Journal, JournalOptions

__all__ = ["Acceptance", "Journal", "JournalOptions"]
