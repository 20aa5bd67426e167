"""Calls through a ProcessPoolExecutor of one process: for each line with a number, so many, and the seconds they took."""

import sys
import time
from concurrent.futures import ProcessPoolExecutor


def echo(text):
    return text


if __name__ == "__main__":
    text = "0123456789abcdef" * 4
    with ProcessPoolExecutor(1) as pool:
        for line in sys.stdin:
            began = time.perf_counter()
            for _ in range(int(line)):
                assert pool.submit(echo, text).result() == text
            print(time.perf_counter() - began, flush=True)
