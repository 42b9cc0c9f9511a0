"""Chapter 06: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

UP = "pixels // 4**depth, narrow + 2 * narrow"
MIX = "(2 * half) ** 2, height * (breadth // 2 + 1)"

ENCODER = """\
            ConvBlock(ReflectConv2d(4, width, 7, bias=False)),
            ConvBlock(ReflectConv2d(width, 2 * width, 3, stride=2, bias=False)),
            ConvBlock(ReflectConv2d(2 * width, 4 * width, 3, stride=2, bias=False)),
"""
ZEROS = """\
            ConvBlock(nn.Conv2d(4, width, 7, padding=3, bias=False)),
            ConvBlock(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)),
            ConvBlock(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=False)),
"""
END = "nn.Conv2d(width, 3, 7, padding=3)"
PRESENT = "[branch for branch in branches if branch is not None]"
BLOCKS = "*(FFCResidual(branches) for _ in range(blocks))"
TRUNK = "self.trunk(self.split((self.encoder(x), None)))"

FIND = 'next((start for start in table if key.startswith(start + ".")), None)'
COUNT = 'len({key.split(".")[1] for key in own if ".conv2.bn_l." in key})'
RAISE = 'raise ValueError(f"{key} belongs to no part of the generator")'
KEEP = 'own = {key.removeprefix("generator."): value for key, value in state_dict.items()'
BY_ORDER = "return dict(zip(FourierGenerator(4, blocks).state_dict(), own.values()))"
KEPT = '    return renamed | {key: value for key, value in state_dict.items() if key.startswith("discriminator.")}'
BY_WORDS = f"""\
start = {FIND}
        if key.split(".")[2] in ("conv1", "conv2"):
            places = {{f"model.{{5 + n}}.": f"trunk.{{n}}." for n in range(blocks)}}
            for theirs, ours in (places | {{"conv1": "first", "conv2": "second"}} | PATHS).items():
                key = key.replace(theirs, ours)
            renamed[key] = tensor
            continue
"""

WRONG = {
    "count_generator": [
        ("biases and norms left out", 2, "biases and BatchNorm's numbers", " + others", ""),
        ("one FFC a block", 0, "has two FFCs", "range(2 * blocks)", "range(blocks)"),
        ("three channels in", 0, "four channels", "49 * 4 * width", "49 * 3 * width"),
        ("the unit's channels not doubled", 0, "twice the channels", MIX, MIX.replace("(2 * half) ** 2", "half**2")),
        ("transposed, at the output", 3, "positions of its input", UP, UP.replace("**depth", " ** (depth - 1)")),
        ("every column", 3, "half spectrum, not", "(breadth // 2 + 1)", "breadth"),
        ("a column too few", 3, "W // 2 + 1 columns", "breadth // 2 + 1", "breadth // 2"),
        ("half of the rows", 4, "numbers are off", MIX, "(2 * half) ** 2, breadth * (height // 2 + 1)"),
        ("no biases in the decoder", 2, "the transposed convolutions have", "narrow + 2 * narrow", "2 * narrow"),
        ("no bias at the end", 2, "has three biases", "width * 3, pixels, 3)", "width * 3, pixels)"),
        ("two for a multiply-add", 3, "counts once", "+= weights * positions", "+= 2 * weights * positions"),
        ("rounded to the nearest", 3, None, "int(channels[-1] * global_ratio)", "round(channels[-1] * global_ratio)"),
        ("the wrong way round", 0, "parameters first", "parameters, multiply_adds\n", "multiply_adds, parameters\n"),
    ],
    "AssembledGenerator": [
        ("global first", 2, "local comes first", PRESENT, PRESENT.replace("in branches", "in branches[::-1]")),
        ("no sigmoid", 0, "sigmoid is missing", "torch.sigmoid(self.decoder(merged))", "self.decoder(merged)"),
        ("both branches expected", 4, None, PRESENT, "list(branches)"),
        ("ratio of the local branch", 0, "swapped", "(8 * width - glob, glob)", "(glob, 8 * width - glob)"),
        ("zeros around the picture", 0, "filled with zeros", ENCODER, ZEROS),
        ("zeros around the last map", 0, "numbers are off", "ReflectConv2d(width, 3, 7)", END),
        ("one pixel too small", 0, "see output_padding", "padding=1, output_padding=1", "padding=1"),
        ("a bias in the encoder", 0, "encoder's convolutions have no bias", "width, 7, bias=False", "width, 7"),
        ("no bias in the decoder", 0, "decoder's convolutions have a bias", "padding=1)", "padding=1, bias=False)"),
        ("trunk built, not used", 0, "trunk is left out", TRUNK, TRUNK.removeprefix("self.trunk")),
        ("one block for all", 2, "numbers are off", BLOCKS, "*[FFCResidual(branches)] * blocks"),
        ("ratio written in", 3, None, "int(8 * width * global_ratio)", "int(8 * width * 0.75)"),
        ("detached", 5, None, "torch.sigmoid(self.decoder(merged))", "torch.sigmoid(self.decoder(merged.detach()))"),
    ],
    "rename_authors": [
        ("words replaced wherever they stand", 1, "conv1 is two things", f"start = {FIND}", BY_WORDS),
        ("prefix kept", 1, "still begin with generator.", "[table[start]", '["generator." + table[start]'),
        ("other networks kept", 4, "is to be left out", "    return renamed", KEPT),
        ("other networks refused", 4, "discriminator", f'{KEEP} if key.startswith("generator.")', KEEP),
        ("nine blocks, always", 2, "ValueError", COUNT, "9"),
        ("concatenation forgotten", 0, "ValueError", "6 + blocks, 15 + blocks", "5 + blocks, 14 + blocks"),
        ("by the order of the entries", 3, None, "renamed = {}", BY_ORDER),
        ("what fits nowhere is skipped", 4, None, RAISE, "continue"),
        ("KeyError", 4, None, "raise ValueError(", "raise KeyError("),
        ("places instead of numbers", 1, "counts from 0", 'f"trunk.{n}.first.{ours}"', 'f"trunk.{5 + n}.first.{ours}"'),
        ("halves swapped", 1, "", '.conv1.{theirs}"] = f"trunk.{n}.first', '.conv1.{theirs}"] = f"trunk.{n}.second'),
        ("no return", 1, "NoneType", "    return renamed", "    renamed"),
    ],
}  # fmt: skip

ADD = "def add(weights, positions, others={}):"
SIDES = "height, breadth = (side {} 2 ** downsamplings for side in size)"
DOWN = "add(9 * narrow * wide, pixels {} 4 ** depth, 2 * wide)"
BACK = "add(9 * wide * narrow, pixels {} 4 ** depth, narrow + 2 * narrow)"
SPECTRAL = "add(({} * half) ** 2, height * (breadth // 2 + 1), 2 * 2 * half)"

EQUIVALENT = {
    "count_generator": [
        (ADD.format(0), ADD.format(1)),  # every call gives the argument
        (ADD.format(0), ADD.format(-1)),
        (SIDES.format("//"), SIDES.format("/")),  # divides without remainder
        (DOWN.format("//"), DOWN.format("/")),
        (BACK.format("//"), BACK.format("/")),
        ("pixels = size[0] * size[1]", "pixels = size[0] * size[-1]"),
        (SPECTRAL.format(2), SPECTRAL.format(-2)),
    ],
    "rename_authors": [
        ("raise ValueError(f'{key} belongs to no part of the generator')", "raise ValueError()"),
        (
            "for n, up in enumerate(range(6 + blocks, 15 + blocks, 3)):",
            "for n, up in enumerate(range(6 + blocks, 14 + blocks, 3)):",
        ),
        (  # no beginning in the table is the beginning of another one
            "start = next((start for start in table if key.startswith(start + '.')), None)",
            "start = next((start for start in table if key.startswith(start)), None)",
        ),
    ],
}
