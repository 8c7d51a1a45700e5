"""The texts of the serving benchmark: the same on every machine, with lengths as requests to an encoder have them.

Half of the texts are questions and titles of up to 19 tokens, a few are whole paragraphs: a log-normal distribution of
words, cut at 122 tokens.
"""

import random
from itertools import pairwise

COUNT = 512
SEED = 20
MEDIAN_WORDS = 16.0
SPREAD = 0.7
"""Standard deviation of the logarithm of a text's number of words."""
MOST_WORDS = 113
WORDS = """
how do I reset my password after the account was locked what is the difference between shipping and delivery time can
you change the address of an order that has already been paid the invoice from last month shows two payments for one
subscription where can I find the manual for this washing machine the screen stays black when the laptop wakes up from
sleep our team moved the database to another region and since then every query takes twice as long a customer asked
whether the warranty covers water damage please cancel my booking for Saturday and refund the deposit the new version
crashes when a file is larger than two gigabytes which vitamins are in oranges and why did the train to Berlin leave
from another platform explain the theory of evolution in simple words the patient reports mild pain in the left knee
after running best restaurants near the old harbour open on Sunday evening an update of the driver solved the problem
with the printer compare the mortgage offers of three banks for a house worth half a million
""".split()  # noqa: SIM905 - sixteen lines of quoted words are no easier to read


def texts(count: int = COUNT) -> list[str]:
    """So many texts, always the same ones in the same order."""
    rng = random.Random(SEED)  # noqa: S311 - repeatable on purpose
    followers: dict[str, list[str]] = {}
    for word, after in pairwise(WORDS):
        followers.setdefault(word, []).append(after)
    return [_text(rng, followers) for _ in range(count)]


def _text(rng: random.Random, followers: dict[str, list[str]]) -> str:
    size = min(MOST_WORDS, max(1, round(rng.lognormvariate(0, SPREAD) * MEDIAN_WORDS)))
    words = [rng.choice(WORDS)]
    while len(words) < size:
        words.append(rng.choice(followers.get(words[-1], WORDS)))
    return " ".join(words)
