"""The metrics of certificates, of the files that secrets are read from, and of calls refused."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from .tallies import Counters

_LABELS = ("setting",)
# Why a call was refused for who makes it.
REFUSALS = (
    "ended_certificate",  # its connection's certificate is no longer good
    "no_token",  # it has none, or more than one
    "wrong_token",  # none of the file's
    "no_right",  # a good token that may not use the model
    "removed_token",  # a stream's token was taken from the file, or a right from the token
)


class SecurityFamilies:
    """The metrics of all that lets callers in."""

    def __init__(self, registry: CollectorRegistry):
        self.certificate_end = Gauge(
            "bilstm_certificate_end_timestamp_seconds",
            "When the certificate of this setting ends, in seconds since 1970; of several in one "
            "file, the one that ends first.",
            _LABELS,
            registry=registry,
        )
        self.accepted_at = Gauge(
            "bilstm_file_accepted_timestamp_seconds",
            "When what the file of this setting holds was last put into effect, in seconds since "
            "1970.",
            _LABELS,
            registry=registry,
        )
        self.refused_now = Gauge(
            "bilstm_file_refused",
            "1 while the file of this setting can't be used, so that what it held before is in "
            "effect; else 0.",
            _LABELS,
            registry=registry,
        )
        self.reloads = Counters(
            "bilstm_file_reloads_total",
            "Changes of the file of this setting, by what became of them: accepted or refused.",
            (*_LABELS, "outcome"),
            registry=registry,
        )
        self.refused_calls = Counters(
            "bilstm_unauthorized_total",
            "Calls and streams that were refused for who makes them, by reason: "
            f"{', '.join(REFUSALS)}.",
            ("reason",),
            registry=registry,
        )


class FileMetrics:
    """Counts what becomes of the file of one setting, or of those that belong together."""

    def __init__(self, families: SecurityFamilies, setting: str):
        self._end = families.certificate_end
        self._setting = setting
        self._accepted_at = families.accepted_at.labels(setting)
        self._refused_now = families.refused_now.labels(setting)
        self._accepted = families.reloads.labels(setting, "accepted")
        self._refused = families.reloads.labels(setting, "refused")

    def accepted(self) -> None:
        """Count that what the file holds is in effect now."""
        self._accepted.inc()
        self._accepted_at.set_to_current_time()
        self._refused_now.set(0)

    def refused(self) -> None:
        """Count that what the file holds can't be used."""
        self._refused.inc()
        self._refused_now.set(1)

    def certificate_ends(self, timestamp: float) -> None:
        """Show when the file's certificate ends, in seconds since 1970."""
        self._end.labels(self._setting).set(timestamp)


class RefusedCalls:
    """Counts the calls that are refused for who makes them."""

    def __init__(self, families: SecurityFamilies):
        self._by_reason = {reason: families.refused_calls.labels(reason) for reason in REFUSALS}

    def refuse(self, reason: str) -> None:
        """Count one, for one of REFUSALS."""
        self._by_reason[reason].inc()
