#!/usr/bin/env python3
"""Compares what producers and consumers have written, and says whether it is as it should be.

    ./account.py wait SENT CONSUMED SECONDS          until all that was acknowledged is consumed
    ./account.py print SENT CONSUMED [MEMBER:PARTITION...]

SENT and CONSUMED are the folders of the producers' and the consumers' files. The last arguments
say which member was killed, and which partitions it had then: of these, and from that member,
messages may be consumed once more. It exits with 0 if nothing else is wrong either.
"""
import pathlib
import sys
import time


def lines(path):
    """The whole lines: the last one may be cut short, of a consumer that was killed."""
    return [line.split() for line in path.read_text().split("\n")[:-1]]


def read_sent(folder):
    """What is known to be in the partitions, and what may be."""
    acknowledged, unanswered = {}, []
    for path in folder.iterdir():
        for what, partition, entry, number in lines(path):
            if what == "acknowledged":
                acknowledged[partition, entry] = (path.name, number)
            else:
                unanswered.append((partition, path.name, number))
    return acknowledged, unanswered


def read_consumed(folder):
    """By partition: its owners in order, and what each of them wrote."""
    partitions = {}
    for path in folder.iterdir():
        partition, fence, member = path.name.split(".")
        partitions.setdefault(partition, []).append((int(fence), member, lines(path)))
    return {partition: sorted(grants) for partition, grants in sorted(partitions.items())}


def wait(sent, consumed, seconds):
    deadline = time.monotonic() + seconds
    while True:
        acknowledged, _ = read_sent(sent)
        done = {(p, line[0]) for p, grants in read_consumed(consumed).items() for _, _, ls in grants for line in ls}
        left = acknowledged.keys() - done
        if not left:
            return 0
        if time.monotonic() > deadline:
            return f"{len(left)} messages are not consumed after {seconds:.0f} s, such as {sorted(left)[:3]}"
        time.sleep(0.1)


def order_of(entry):
    return tuple(int(part) for part in entry.split("-"))


class Partition:
    """What became of one partition's messages."""

    def __init__(self, name, grants, killed):
        self.owners = [member for _, member, _ in grants]
        self.messages = {}  # by entry: producer and number
        self.disorder = self.allowed = self.repeats = 0
        newest, numbers = (), {}
        former, before = None, set()  # the owner before, and what it wrote
        for _, member, written in grants:
            for entry, producer, number in written:
                if entry in self.messages:
                    was_cut_off = entry in before and f"{former}:{name}" in killed
                    self.allowed += was_cut_off
                    self.repeats += not was_cut_off
                    continue
                self.messages[entry] = (producer, number)
                # As the broker has them, and so as each producer sent them. A number comes again
                # if its answer was lost and it was sent to the same partition once more.
                in_order = order_of(entry) > newest and int(number) >= numbers.get(producer, 0)
                self.disorder += not in_order
                newest, numbers[producer] = order_of(entry), int(number)
            former, before = member, {line[0] for line in written}


def show(sent, consumed, killed):
    acknowledged, unanswered = read_sent(sent)
    partitions = {name: Partition(name, grants, killed) for name, grants in read_consumed(consumed).items()}
    found = {(name, entry): m for name, p in partitions.items() for entry, m in p.messages.items()}

    print(f"{'PARTITION':<10}{'MESSAGES':>9}  CONSUMED BY")
    for name, partition in partitions.items():
        print(f"{name:<10}{len(partition.messages):>9}  {' > '.join(partition.owners)}")

    lost = acknowledged.keys() - found.keys()
    changed = [key for key in acknowledged.keys() & found.keys() if acknowledged[key] != found[key]]
    others = [(name, *found[name, entry]) for name, entry in found.keys() - acknowledged.keys()]
    got_through = [message for message in others if message in unanswered]
    total = {what: sum(getattr(p, what) for p in partitions.values()) for what in ("disorder", "allowed", "repeats")}
    rows = [
        ("acknowledged by brokers", len(acknowledged)),
        ("of these consumed", len(acknowledged) - len(lost)),
        ("lost", len(lost)),
        ("consumed out of order", total["disorder"]),
        ("consumed, but not what was sent", len(changed) + len(others) - len(got_through)),
        ("consumed again: a killed consumer had not put down its checkpoint", total["allowed"]),
        ("consumed again for any other reason", total["repeats"]),
        ("sent, but the broker died before it answered; sent again", len(unanswered)),
        ("of these consumed too, as they had got through", len(got_through)),
    ]
    print()
    for what, count in rows:
        print(f"{count:>8}  {what}")
    if not acknowledged:
        return "nothing was sent"
    if lost or changed or total["disorder"] or total["repeats"] or len(others) > len(got_through):
        return "the account is wrong"
    print("\nthe account is right")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["wait", sent, consumed, seconds]:
            sys.exit(wait(pathlib.Path(sent), pathlib.Path(consumed), float(seconds)))
        case ["print", sent, consumed, *killed]:
            sys.exit(show(pathlib.Path(sent), pathlib.Path(consumed), killed))
        case _:
            sys.exit(f"usage: {sys.argv[0]} wait SENT CONSUMED SECONDS | print SENT CONSUMED [MEMBER:PARTITION...]")
