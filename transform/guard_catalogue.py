"""Guards what is compared as a whole with the last blessed run: the catalogue's size and ids, and rejected rows."""

from collections.abc import Iterator

from transform.baseline import Profile, kept_share
from transform.config import ValidateConfig
from transform.data_statistics import ITEMS
from transform.findings import Anomaly, found


def check_catalogue(now: Profile, item_ids: list[str], blessed: Profile, config: ValidateConfig) -> Iterator[Anomaly]:
    """Findings about the number of products and their ids; `item_ids` are all of this run's."""
    limit = config.max_catalogue_loss
    size, before = now.facts["items"], blessed.facts["items"]
    text = f"{size:,} products; the last blessed run had {before:,} (limit ±{limit:.0%})."
    if size < before * (1 - limit):
        yield found(ITEMS, "item_id", "CATALOGUE_SMALL", text)
    if size > before / (1 - limit):
        yield found(ITEMS, "item_id", "CATALOGUE_LARGE", text)
    kept = kept_share(blessed.item_ids, item_ids)
    # Half a catalogue keeps half of its ids: that is one finding, not two.
    if kept < (1 - limit) * min(1.0, size / max(before, 1)):
        text = f"{kept:.1%} of the last blessed run's ids are still there (limit {1 - limit:.0%})."
        yield found(ITEMS, "item_id", "IDS_REPLACED", text)


def check_rejected(
    now: Profile, blessed: Profile, new_events: int, rejected: dict[str, int], limit: float
) -> Iterator[Anomaly]:
    """A finding about rows that the transform set aside, of those that are new.

    Args:
        now: of this run.
        blessed: of the last blessed run.
        new_events: good events of the days that the blessed run did not have.
        rejected: rows by field and rule.
        limit: their share of the new rows, beyond the share that is usual.
    """
    usual = blessed.facts["rejected"] / max(blessed.facts["rows_read"], 1)
    more = now.facts["rejected"] - usual * now.facts["rows_read"]
    share = more / max(new_events + more, 1)
    if share > limit and rejected:
        rule, count = max(rejected.items(), key=lambda entry: entry[1])
        text = (
            f"{more:,.0f} rows more than usual are bad, {share:.1%} of the new ones (limit {limit:.0%}). Most "
            f"frequent: {rule} ({count:,} rows)."
        )
        yield found("new rows", rule.partition(":")[0], "REJECTED_HIGH", text)
