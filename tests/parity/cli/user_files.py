"""The source of a user's files: right and wrong modules, and files that cannot be imported."""

from __future__ import annotations

PAIR = '''
import signal
import sys


class Reference(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)


class Right(Reference):
    def forward(self, x):
        return Affine.apply(x, self.weight, self.bias)


class Wrong(Reference):
    def forward(self, x):
        return Mean.apply(x, self.weight, self.bias)


class Reversed(Reference):
    def forward(self, x):
        return (x.flip(-1)[..., None, :] * self.weight.flip(-1)).sum(-1) + self.bias  # no FMA


class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return Affine.apply(x, self.w, self.b)


class Sized(nn.Linear):
    pass


class Holder:
    instance = Right()


def sized():
    return Sized(4, 3)


def affine(x, w, b):
    return x @ w.T + b


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(seed):
    return draw(seed, 8, 4)


def arguments(seed):
    return draw(seed, 8, 4), draw(seed + 1, 3, 4), draw(seed + 2, 3)


def unseeded():
    return [torch.randn(8, 4)]


def no_inputs(seed):
    return torch.zeros(8, 4)


def impossible(seed):
    raise RuntimeError("no such file")


def interrupted(seed):
    raise KeyboardInterrupt


def loss(output, target):
    return (output - target).pow(2).mean()


def target(seed):
    return draw(seed, 8, 3)


fixed = draw(7, 8, 3)
batches = [(draw(k, 8, 4), draw(k + 9, 8, 3)) for k in range(4)]


class Stopping:
    """Ctrl-C, or another signal, in front of the third batch, once."""

    def __init__(self, sent):
        self.sent = sent

    def __iter__(self):
        for number, batch in enumerate(batches):
            if number == 2 and self.sent:
                sent, self.sent = self.sent, None
                signal.raise_signal(sent)
            yield batch


stopping, stopped = Stopping(signal.SIGINT), Stopping(signal.SIGINT)
terminated = Stopping(signal.SIGTERM)


def leaves(seed):
    sys.exit("no data")


class Leaves(Reference):
    def forward(self, x):
        sys.exit(3)
'''
BROKEN = {
    "divides": "import os\n\nx = 1 / 0\n",
    "unfinished": "def f(:\n",
    "leaves": "import sys\nsys.exit(3)\n",
    "needs": "import no_such_package\n",
}
