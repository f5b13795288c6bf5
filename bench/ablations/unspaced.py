#!/usr/bin/env python3
"""WikiText as usual text: without the blanks around punctuation marks. unspaced.py < spaced > usual. Python 3.9, no packages.

What `sherry calibrate --spaced-text` does, undone as far as it can be."""

import re
import sys

sys.stdin.reconfigure(encoding="utf-8")
sys.stdout.reconfigure(encoding="utf-8")
for line in sys.stdin:
    line = re.sub(r" @([-,.])@ ", r"\1", line)
    line = re.sub(r'" ([^"]*?) "', r'"\1"', line)
    line = re.sub(r" '(s|t|d|m|re|ve|ll)\b", r"'\1", line)
    line = re.sub(r" ([,.;:!?%)\]}])(?=\s)", r"\1", line)
    line = re.sub(r"([(\[{$]) ", r"\1", line)
    print(line.strip())
