"""Fault campaigns: what is asked, which bits the trials hit, running them in resumable chunks, and what they say."""

from threats.campaigns.campaign import CampaignResult, conduct, difference, replay, run_campaign
from threats.campaigns.course import Progress
from threats.campaigns.estimates import GROUPS
from threats.campaigns.prepared import Campaign, prepare, sites_of
from threats.campaigns.spec import ALLOCATIONS, DRAWINGS, KINDS, METRICS, CampaignSpec
from threats.campaigns.trials import Store, Trials, take

__all__ = [
    "ALLOCATIONS",
    "DRAWINGS",
    "GROUPS",
    "KINDS",
    "METRICS",
    "Campaign",
    "CampaignResult",
    "CampaignSpec",
    "Progress",
    "Store",
    "Trials",
    "conduct",
    "difference",
    "prepare",
    "replay",
    "run_campaign",
    "sites_of",
    "take",
]
