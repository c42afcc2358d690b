"""What judging costs: an estimate before the first request, and an account that stops at a budget."""

from __future__ import annotations

from dataclasses import dataclass

# A picture of at most 512×512 pixels is one tile: OpenAI's published count for gpt-4o is 85 + 170 tokens.
TOKENS_PER_IMAGE = 255
CHARACTERS_PER_TOKEN = 4
# A number is one or two tokens; a judge that talks is cut short by nothing, so some slack.
TOKENS_PER_ANSWER = 8


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Dollars per million tokens sent and returned."""

    tokens_in: float
    tokens_out: float

    def dollars(self, tokens_in: int, tokens_out: int) -> float:
        """The price of that many tokens."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What a number of requests should take; `dollars` is None without prices."""

    requests: int
    images: int
    tokens_in: int
    tokens_out: int
    dollars: float | None


def estimate_cost(
    *,
    requests: int,
    images_per_request: int,
    instruction: str,
    prices: Prices | None = None,
    tokens_per_image: int = TOKENS_PER_IMAGE,
) -> CostEstimate:
    """The cost of `requests` requests, each with as many pictures and the instruction, without calling
    anybody.

    Retries are not foreseen. Other models than gpt-4o count a picture's tokens in other ways.
    """
    text_tokens = -(-len(instruction) // CHARACTERS_PER_TOKEN)
    tokens_in = requests * (images_per_request * tokens_per_image + text_tokens)
    tokens_out = requests * TOKENS_PER_ANSWER
    return CostEstimate(
        requests=requests,
        images=requests * images_per_request,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        dollars=None if prices is None else prices.dollars(tokens_in, tokens_out),
    )


class Account:
    """Dollars spent and promised against a budget; without a budget or prices it only counts tokens.

    A request is reserved at its estimated price before it is sent and settled at its real one after.
    """

    def __init__(self, prices: Prices | None = None, budget: float | None = None) -> None:
        self.prices = prices
        self.budget = budget
        self.spent = 0.0
        self.reserved = 0.0

    def affords(self, estimate: CostEstimate) -> bool:
        """Whether the budget still covers that much more."""
        if self.budget is None or estimate.dollars is None:
            return True
        return self.spent + self.reserved + estimate.dollars <= self.budget

    def reserve(self, estimate: CostEstimate) -> bool:
        """Set the estimate aside; False, and nothing set aside, where the budget does not cover it."""
        if not self.affords(estimate):
            return False
        self.reserved += estimate.dollars or 0.0
        return True

    def settle(self, estimate: CostEstimate, *, tokens_in: int, tokens_out: int) -> None:
        """Replace a reservation by what the request used (0 and 0: it was not charged)."""
        self.reserved -= estimate.dollars or 0.0
        if self.prices is not None:
            self.spent += self.prices.dollars(tokens_in, tokens_out)

    def why_closed(self, estimate: CostEstimate) -> str:
        """A sentence about requests that the budget does not cover."""
        return (
            f"over the judge's budget of ${self.budget:.2f}: ${self.spent:.4f} spent, "
            f"the next {estimate.requests} of its requests would take about ${estimate.dollars or 0.0:.4f}"
        )
