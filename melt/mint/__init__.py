"""The client of one mint (NUT-01 to 09, 12, 17, 23): bounded requests, strict reading, every answer sorted."""

from melt.mint.client import HttpMint
from melt.mint.limits import MintLimits
from melt.mint.sorting import NOT_SENT, NOT_VALID
from melt.mint.subscriptions import Subscriber, SubscriptionLimits

__all__ = ["NOT_SENT", "NOT_VALID", "HttpMint", "MintLimits", "Subscriber", "SubscriptionLimits"]
