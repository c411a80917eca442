"""The tokenizer of the pocket text tower: one id per known word, a few shared ids for all other words.

Ids: 0 pad, 1 start, 2 end, then the vocabulary in order, then BUCKETS ids that unknown words share by their CRC-32.
"""

import re
import zlib

BUCKETS = 32


class WordTokenizer:
    """Offers what comfy.sd1_clip.SDTokenizer asks of a tokenizer: from_pretrained, a call, get_vocab."""

    def __init__(self, words):
        self.words = list(words)
        self.ids = {word: k + 3 for k, word in enumerate(self.words)}
        self.first_bucket = 3 + len(self.words)
        self.size = self.first_bucket + BUCKETS

    @classmethod
    def from_pretrained(cls, vocabulary, **kwargs):
        """`vocabulary` is a uint8 tensor: UTF-8 words joined by newlines."""
        return cls(bytes(vocabulary.cpu().tolist()).decode("utf-8").split("\n"))

    def word_id(self, word):
        if word in self.ids:
            return self.ids[word]
        if word.endswith("s") and word[:-1] in self.ids:
            return self.ids[word[:-1]]
        return self.first_bucket + zlib.crc32(word.encode("utf-8")) % BUCKETS

    def __call__(self, text):
        return {"input_ids": [1, *(self.word_id(w) for w in re.findall(r"[a-z0-9]+", text.lower())), 2]}

    def get_vocab(self):
        vocabulary = {"<pad>": 0, "<start>": 1, "<end>": 2, **self.ids}
        vocabulary.update({f"<bucket{k}>": self.first_bucket + k for k in range(BUCKETS)})
        return vocabulary
