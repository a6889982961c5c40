"""What the guards of the data say: one finding for each broken rule, its severity, its sentence."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tensorflow_metadata.proto.v0 import anomalies_pb2

from transform.checks import DataError, nearest
from transform.clock import DAY

logger = logging.getLogger(__name__)

STOP, WARN, OFF = "stop", "warn", "off"
# Of the command that validates: the data must not be used; the data is good and has moved so far that it is time to
# train again. Everything else that ends in an error has 1.
STOP_STATUS, RETRAIN_STATUS = 3, 4

_CHECK_EXPORT = "Check the export of that day at its source, and deliver it again."
_CHECK_TRACKING = "Check the shop's tracking and what changed in its last release."
_CHECK_CATALOGUE = "Check the export of the catalogue, and deliver it again."
_RUN_TRANSFORM = "Delete the run's steps/transform and run it again; report it if it comes back."

# Our rules, beside those of TensorFlow Data Validation: severity as shipped, and what to do.
RULES: dict[str, tuple[str, str]] = {
    "VOLUME_LOW": (STOP, _CHECK_EXPORT),
    "VOLUME_HIGH": (WARN, "If it is no sale or campaign, look for repeated deliveries and for bots."),
    "VANISHED": (STOP, f"If it was not taken out on purpose: {_CHECK_TRACKING[0].lower()}{_CHECK_TRACKING[1:]}"),
    "NEW_VALUES": (STOP, "Map them to the known values on import (`values:` of the column map), if they are the same."),
    "MISSING_HIGH": (STOP, _CHECK_TRACKING),
    "DAY_MISSING": (STOP, _CHECK_EXPORT),
    "DAY_OUT_OF_PLACE": (STOP, "Check date, year and time zone of what was delivered."),
    "HOURS_EMPTY": (STOP, _CHECK_EXPORT),
    "HOURS_SHIFTED": (STOP, "Check the time zone of the source: timestamps are seconds since 1970-01-01 in UTC."),
    "DUPLICATES_HIGH": (STOP, "A file was delivered or joined twice: deliver the day once."),
    "REPEATED_DAY": (STOP, "Another day was delivered under this date: deliver the right one."),
    "ONE_SHOPPER_HIGH": (STOP, "Look for a crawler, or for a user_id that stands for everybody."),
    "HEAVY_SHOPPERS_HIGH": (STOP, "Look for bots, and take them out before the import."),
    "RETURNING_LOW": (STOP, "Check whether user_id is still made in the same way."),
    "SHARED_SESSIONS_HIGH": (STOP, "Check how session is made: one id belongs to one shopper."),
    "DRIFT_HIGH": (STOP, _CHECK_TRACKING),
    "DRIFT_NEAR_LIMIT": (WARN, "Nothing must be done; look at it."),
    "REJECTED_HIGH": (STOP, "Look at the dead letters of the transform."),
    "CATALOGUE_SMALL": (STOP, _CHECK_CATALOGUE),
    "CATALOGUE_LARGE": (WARN, _CHECK_CATALOGUE),
    "IDS_REPLACED": (STOP, "Check how item_id is made: the models know products by it."),
    "LEAK": (STOP, _RUN_TRANSFORM),
    "SKEW_HIGH": (STOP, "Make client and training agree on how the feature is made, or train on newer data."),
    "NOT_SECONDS": (STOP, "Send seconds since 1970-01-01 in UTC."),
    "UNKNOWN_PRODUCTS_HIGH": (STOP, "Check that clients send the shop's item_id, or refresh the catalogue."),
}
_TFDV_RULES = tuple(anomalies_pb2.AnomalyInfo.Type.keys())
_TFDV_WARNINGS = ("SCHEMA_NEW_COLUMN",)


@dataclass(frozen=True)
class Anomaly:
    """One finding."""

    dataset: str  # "train", "validation", "test", "items", "day 2024-03-20", "requests" …
    feature: str
    rule: str
    description: str  # a sentence with what was received and what was expected
    severity: str
    advice: str = ""


class GuardError(DataError):
    """Data that must not be used. The command ends with STOP_STATUS."""

    exit_status = STOP_STATUS


def found(dataset: str, feature: str, rule: str, description: str) -> Anomaly:
    """A finding of one of RULES."""
    severity, advice = RULES[rule]
    return Anomaly(dataset, feature, rule, description, severity, advice)


def day_name(day: int) -> str:
    """Dataset of one day (since 1970)."""
    return f"day {date(day)}"


def date(day: int) -> str:
    """ISO date of a day since 1970."""
    return f"{datetime.fromtimestamp(day * DAY, UTC):%Y-%m-%d}"


def check_rule_names(severity: dict[str, str]) -> None:
    """Raises DataError if a key of `validate.severity` is no rule."""
    known = (*RULES, *_TFDV_RULES)
    for name in severity:
        if name not in known:
            raise DataError(
                f"validate.severity: {name!r} is no rule of the guards ({', '.join(RULES)}, and TFDV's own)."
                f"{nearest(name, known)}"
            )


def judged(findings: Iterable[Anomaly], severity: dict[str, str], blessed: bool) -> list[Anomaly]:
    """Findings with their final severity, without those switched off; the ones that stop come first.

    Args:
        findings: as the guards made them.
        severity: by rule, where it differs from what is shipped.
        blessed: there is an earlier run to compare days with. Without one a day is compared with its predecessors in
            the same data, of which nobody has said that they are good: such findings warn.
    """
    kept = []
    for finding in findings:
        final = severity.get(finding.rule, finding.severity)
        if finding.rule not in severity and not blessed and finding.dataset.startswith("day "):
            final = WARN
        if final != OFF:
            kept.append(replace(finding, severity=final))
    return sorted(kept, key=lambda finding: finding.severity != STOP)


def shipped_severity(rule: str) -> str:
    """Severity of one of TFDV's rules."""
    return WARN if rule in _TFDV_WARNINGS else STOP


def sentence(finding: Anomaly) -> str:
    """Where, what, by which rule, what was received, what to do."""
    where = "products" if finding.dataset == "items" else finding.dataset
    where += " span" if finding.dataset in ("train", "validation", "test") else ""
    advice = f" {finding.advice}" if finding.advice else ""
    return f"{where}, feature {finding.feature!r}, rule {finding.rule}: {finding.description}{advice}"


def judge(findings: Iterable[Anomaly]) -> None:
    """Logs what warns; raises GuardError for what stops."""
    findings = list(findings)
    for finding in findings:
        if finding.severity == WARN:
            logger.warning("%s", sentence(finding))
    stopping = [sentence(finding) for finding in findings if finding.severity == STOP]
    if stopping:
        raise GuardError(
            f"{len(stopping)} findings stop the run. {' '.join(stopping)} Correct the data; or accept what is right: a "
            "limit of validate, `--set validate.severity.<RULE>=warn`, or the feature in the schema file."
        )
