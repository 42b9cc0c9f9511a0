"""Chapter 08: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

ON_REAL = "F.softplus(-real_logits).mean()"
ON_FAKE = "F.softplus(fake_logits).mean()"
SIDES = f"discriminator = {ON_REAL} + {ON_FAKE}"
SIGMOIDS = "discriminator = -torch.log(real_logits.sigmoid()).mean() - torch.log(1 - fake_logits.sigmoid()).mean()"
SWAPPED = "discriminator = F.softplus(real_logits).mean() + F.softplus(-fake_logits).mean()"
EPSILON = (
    "discriminator = -(real_logits.sigmoid() + 1e-8).log().mean() - (1 - fake_logits.sigmoid() + 1e-8).log().mean()"
)
ONE = "torch.ones_like"
CLAMPED = (
    f"discriminator = F.binary_cross_entropy(real_logits.sigmoid(), {ONE}(real_logits))"
    f" + F.binary_cross_entropy(fake_logits.sigmoid(), 0 * {ONE}(fake_logits))"
)
TOGETHER = "discriminator = (F.softplus(-real_logits) + F.softplus(fake_logits)).mean()"
MADE = "generator = F.softplus(-fake_logits).mean()"

SHRINK = 'F.interpolate(mask, size=fake_logits.shape[-2:], mode="nearest")'
EACH = "on_fake = (fake * F.softplus(fake_logits)).sum() / fake.sum()"
OTHERS = "((1 - fake) * F.softplus(-fake_logits)).sum() / (1 - fake).sum()"
BY_MASK = "F.softplus(fake_logits * fake) + F.softplus(-fake_logits * (1 - fake))"
TARGETS = "fake * F.softplus(fake_logits) + (1 - fake) * F.softplus(-fake_logits)"
MASKED = "on_real = (1 - fake) * F.softplus(-real_logits) + fake * F.softplus(real_logits)"

OWN = "image.detach().requires_grad_()"
SLOPE = "torch.autograd.grad(logits.sum(), image, create_graph=True)"
BACKWARD = "logits.sum().backward(create_graph=True)\n    slope = image.grad"
NORM = "slope.square().sum(dim=(1, 2, 3)).mean()"

LAYER = "F.mse_loss(fake, real.detach())"
MEAN = "torch.stack(distances).mean()"
POOLED = "torch.cat([(fake - real.detach()).flatten() for fake, real in zip(fake_features, real_features)])"

WRONG = {
    "game_losses": [
        ("saturating", 0, "saturating", MADE, f"generator = -{ON_FAKE}"),
        ("discriminator's signs swapped", 0, "signs are swapped", SIDES, SWAPPED),
        ("generator wants to be seen through", 0, "sign is wrong", MADE, f"generator = {ON_FAKE}"),
        ("sums", 0, "take means", ".mean()", ".sum()"),
        ("half", 0, "half of it", SIDES, f"discriminator = ({ON_REAL} + {ON_FAKE}) / 2"),
        ("generator first", 0, "comes second", "return discriminator, generator", "return generator, discriminator"),
        ("real pictures for the generator", 0, "one term", MADE, f"{MADE} + F.softplus(real_logits).mean()"),
        ("logarithm of a sigmoid", 3, "logarithm of a sigmoid: use softplus", SIDES, SIGMOIDS),
        ("logarithm of a sigmoid, plus a little", 3, "logarithm of a sigmoid: use softplus", SIDES, EPSILON),
        ("generator by a logarithm", 3, "use softplus", MADE, "generator = -fake_logits.sigmoid().log().mean()"),
        ("cross-entropy of a sigmoid", 3, "logarithm of a sigmoid: use softplus", SIDES, CLAMPED),
        ("one mean over both", 3, "must match", SIDES, TOGETHER),
        ("detached", 2, "does not require grad", MADE, "generator = F.softplus(-fake_logits.detach()).mean()"),
        ("one loss alone", 0, "return both losses", "return discriminator, generator", "return discriminator"),
        ("no return", 0, "return statement", "return discriminator, generator", "pass"),
    ],
    "mask_aware_loss": [
        ("sign of the mask", 0, "sign of the mask", SHRINK, f"1 - {SHRINK}"),
        ("known patches left out", 0, "left out", TARGETS, "fake * F.softplus(fake_logits)"),
        ("mask ignored", 0, "mask is not used", TARGETS, "F.softplus(fake_logits)"),
        ("real pictures forgotten", 0, "real pictures is missing", "(on_real + on_fake)", "on_fake"),
        ("real pictures masked", 0, "real everywhere", "on_real = F.softplus(-real_logits)", MASKED),
        ("any overlap", 1, "any-overlap", SHRINK, "F.adaptive_max_pool2d(mask, fake_logits.shape[-2:])"),
        ("bilinear", 1, "nearest neighbour", '"nearest"', '"bilinear"'),
        ("area", 1, "nearest neighbour", '"nearest"', '"area"'),
        ("nearest-exact", 1, "nearest-exact", '"nearest"', '"nearest-exact"'),
        ("sum", 0, "take the mean", ".mean()", ".sum()"),
        ("mean over twice as many", 0, "half of it", "(on_real + on_fake)", "torch.cat([on_real, on_fake])"),
        ("by the number of fake ones", 0, "do not divide", f"on_fake = {TARGETS}", EACH),
        ("each kind by its number", 0, "do not divide", f"on_fake = {TARGETS}", f"{EACH} + {OTHERS}"),
        ("half of that", 1, "do not divide", f"on_fake = {TARGETS}", f"{EACH} / 2 + {OTHERS} / 2"),
        ("all by fake ones", 0, "do not divide", f"on_fake = {TARGETS}", f"on_fake = ({TARGETS}).sum() / fake.sum()"),
        ("mask times logits", 1, "multiply the losses", TARGETS, BY_MASK),
        ("no return", 0, "return statement", "return (", "("),
    ],
    "slope_penalty": [
        ("not recorded", 1, "create_graph=True", ", create_graph=True", ""),
        ("detached in the end", 1, "create_graph=True", NORM, f"({NORM}).detach()"),
        ("mean over all numbers", 0, "all numbers", NORM, "slope.square().mean()"),
        ("norm not squared", 0, "square root", NORM, "slope.square().sum(dim=(1, 2, 3)).sqrt().mean()"),
        ("sum over the batch", 0, "over the batch", NORM, "slope.square().sum()"),
        ("half", 0, "factor ½", NORM, f"{NORM} / 2"),
        ("mean of the logits", 0, "sum them", "logits.sum()", "logits.mean()"),
        ("distance from 1", 0, "from 1", NORM, "(slope.flatten(1).norm(dim=1) - 1).square().mean()"),
        ("square of the sum", 0, "square each", NORM, "slope.sum(dim=(1, 2, 3)).square().mean()"),
        ("caller's picture changed", 1, "detach() first", OWN, "image.requires_grad_()"),
        ("backward", 3, "use torch.autograd.grad", f"(slope,) = {SLOPE}", BACKWARD),
        ("no gradient asked for", 0, "RuntimeError", OWN, "image.detach()"),
        ("features for logits", 0, "AttributeError", "logits, _ =", "_, logits ="),
    ],
    "match_features": [
        ("sum over the layers", 1, "sum over the layers", MEAN, "torch.stack(distances).sum()"),
        ("pooled", 2, "weighed by their size", MEAN, f"{POOLED}.square().mean()"),
        ("absolute", 0, "absolute", "F.mse_loss", "F.l1_loss"),
        ("sum in a layer", 0, "each layer's difference is a sum", LAYER, f"{LAYER} * fake.numel()"),
        ("last layer alone", 2, "last layer alone", MEAN, "distances[-1]"),
        ("first layer alone", 2, "first layer alone", MEAN, "distances[0]"),
        ("mean before the square", 1, "before they are squared", LAYER, "(fake - real.detach()).mean().square()"),
        ("originals not detached", 3, "flows into the originals", "real.detach()", "real"),
        ("prediction detached", 3, "it is the prediction that learns", LAYER, "F.mse_loss(fake.detach(), real)"),
        ("norm", 0, "those are norms", LAYER, "(fake - real.detach()).norm()"),
        ("root", 0, "those are roots", LAYER, f"{LAYER}.sqrt()"),
        ("without gradients", 3, "no torch.no_grad()", MEAN, f"{MEAN}.detach()"),
        ("Python number", 0, None, MEAN, f"{MEAN}.item()"),
        ("no return", 0, "return statement", "return torch", "torch"),
    ],
}  # fmt: skip

EQUIVALENT = {  # `make mutants`
    "mask_aware_loss": [  # nearest is the default; the logits have four dimensions
        (
            "fake = F.interpolate(mask, size=fake_logits.shape[-2:], mode='nearest')",
            "fake = F.interpolate(mask, size=fake_logits.shape[-2:])",
        ),
        (
            "fake = F.interpolate(mask, size=fake_logits.shape[-2:], mode='nearest')",
            "fake = F.interpolate(mask, size=fake_logits.shape[2:], mode='nearest')",
        ),
    ],
    "slope_penalty": [
        ("return slope.square().sum(dim=(1, 2, 3)).mean()", "return slope.square().sum(dim=(1, -2, 3)).mean()")
    ],
    "match_features": [  # the lists have one length
        ("pairs = zip(fake_features, real_features, strict=True)", "pairs = zip(fake_features, real_features)"),
        (
            "pairs = zip(fake_features, real_features, strict=True)",
            "pairs = zip(fake_features, real_features, strict=False)",
        ),
    ],
}
