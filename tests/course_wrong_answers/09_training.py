"""Chapter 09: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

RAW = "prediction = generator(generator_input(image, mask))"
BLEND = "prediction = mask * generator(generator_input(image, mask)) + (1 - mask) * image"
WITHOUT = f"with torch.no_grad():\n        {RAW}"
JUDGED = "fake_logits, fake_features = discriminator(prediction)"
SWAPPED = "weights.l1_hole, weights.l1_known"
PLAIN = "{name: term.detach() for name, term in terms.items()}"
CLIP = "nn.utils.clip_grad_norm_("
COPY = "image = image.detach().requires_grad_()"
BOTH = "real_logits, _ = discriminator(image)\n    fake_logits, _ = discriminator(prediction)"
TOGETHER = "real_logits, fake_logits = discriminator(torch.cat([image, prediction]))[0].chunk(2)"
TARGET = "losses.fake_target(mask, fake_logits.shape[-2:], weights.mask_target)"

LERP = "old.lerp_(latest[name], 1 - decay)"

WRONG = {
    "move_generator": [
        (
            "discriminator not frozen", 3, "left behind: gradients in the discriminator\n",
            "discriminator.requires_grad_(False)", "pass"
        ),
        (
            "discriminator stays frozen", 3, "left behind: a frozen discriminator\n",
            "discriminator.requires_grad_(True)", "pass"
        ),
        ("terms with their graph", 3, "terms with their graph", PLAIN, "terms"),
        ("the composite is judged", 1, "raw prediction", RAW, BLEND),
        ("mask upside down", 1, "numbers are off", "generator_input(image, mask)", "generator_input(image, 1 - mask)"),
        ("known and hole swapped", 1, "numbers are off", "weights.l1_known, weights.l1_hole", SWAPPED),
        ("adversarial unweighted", 1, "with their weights", "weights.adversarial * losses", "losses"),
        (
            "logits of the image", 1, "numbers are off",
            "adversarial_generator(fake_logits)", "adversarial_generator(-fake_logits)"
        ),
        ("perceptual swapped", 1, "numbers are off", "perceptual(prediction, image)", "perceptual(image, prediction)"),
        ("gradients never cleared", 3, "were gradients cleared", "optimizer.zero_grad()", "pass"),
        (
            "no clipping", 3, "is to be clipped",
            f"{CLIP}generator.parameters(), clip)", f"{CLIP}generator.parameters(), 1e9)"
        ),
        ("norm after clipping", 3, "before clipping", ': norm}', ': norm.clamp(max=clip)}'),
        (
            "discriminator without a graph", 1, "is it cut off",
            JUDGED, f"with torch.no_grad():\n        {JUDGED}"
        ),
        ("prediction detached", 0, "RuntimeError", RAW, f"{RAW}.detach()"),
        ("no step", 2, "✗ weights", "optimizer.step()", "pass"),
    ],
    "move_discriminator": [
        ("generator in the graph", 3, "left behind: gradients in the generator\n", WITHOUT, RAW),
        (
            "generator in evaluation mode", 0, "numbers are off",
            "optimizer.zero_grad()", "optimizer.zero_grad()\n    generator.eval()"
        ),
        ("the composite is judged", 1, "numbers are off", RAW, BLEND),
        ("the caller's image", 3, "an image that asks for gradients", COPY, "image.requires_grad_()"),
        ("image needs no gradient", 0, "RuntimeError", COPY, "image = image.detach()"),
        ("R1 unweighted", 1, "with its weight", "weights.r1 * losses", "losses"),
        (
            "R1 of the prediction", 0, "RuntimeError",
            "losses.r1_penalty(real_logits, image)", "losses.r1_penalty(fake_logits, prediction)"
        ),
        ("one pass for both", 1, "numbers are off", BOTH, TOGETHER),
        ("targets upside down", 1, "numbers are off", TARGET, TARGET.replace("mask,", "1 - mask,")),
        ("all of a filling is fake", 1, "numbers are off", TARGET, "torch.ones_like(fake_logits)"),
        ("always nearest", 3, None, ", weights.mask_target", ""),
        (
            "real and fake swapped", 1, "numbers are off",
            "(real_logits, fake_logits, fake)", "(fake_logits, real_logits, fake)"
        ),
        ("gradients never cleared", 3, "were gradients cleared", "optimizer.zero_grad()", "pass"),
        (
            "no clipping", 3, "is to be clipped",
            f"{CLIP}discriminator.parameters(), clip)", f"{CLIP}discriminator.parameters(), 1e9)"
        ),
        ("norm after clipping", 3, "before clipping", ': norm}', ': norm.clamp(max=clip)}'),
        ("terms with their graph", 3, "terms with their graph", PLAIN, "terms"),
    ],
    "update_average": [
        ("shares swapped", 1, "1 − decay", LERP, "old.lerp_(latest[name], decay)"),
        (
            "parameters only", 1, "it is as it was",
            "for name, old in average.state_dict().items():",
            "for name, old in ((n, p.data) for n, p in average.named_parameters()):",
        ),
        (
            "parameters as autograd sees them", 0, "RuntimeError",
            "average.state_dict()", "dict(average.named_parameters())"
        ),
        (
            "buffers copied", 2, "numbers are off",
            "if old.is_floating_point()", 'if "running" not in name and old.is_floating_point()'
        ),
        ("counts left", 2, "it is as it was", "old.copy_(latest[name])", "pass"),
        (
            "counts averaged and cut", 2, "it is as it was",
            "old.copy_(latest[name])", "old.copy_(old * decay + latest[name] * (1 - decay))"
        ),
        ("not in place", 1, "it is as it was", LERP, "old = decay * old + (1 - decay) * latest[name]"),
        ("copied", 1, None, LERP, "old.copy_(latest[name])"),
        ("the network moves, too", 1, "returns False", LERP, f"{LERP}\n            latest[name].copy_(old)"),
        ("a sum", 1, "numbers are off", LERP, "old.mul_(decay).add_(latest[name])"),
    ],
    "diagnoses": [
        ("another part for A", 5, None, '"fourier"', '"predict"'),
        ("the range is the patient's", 5, "predicts no change", '"input_mean", 0.25, 0.4', '"input_mean", 0.1, 0.13'),
        (
            "a range that holds everything", 5, "predicts no change",
            '"off_average", 0.0, 0.001', '"off_average", 0.0, 1.0'
        ),
        ("a wrong part", 5, None, '("best"', '("fourier"'),
        ("a part that is none", 5, "one of the table's names", '("fourier"', '("Fourier"'),
        (
            "too narrow for a third seed", 5, None,
            '"statistics_moved", 0.005, 0.05', '"statistics_moved", 0.0165, 0.0166'
        ),
        ("no such measurement", 5, "no such measurement", '"written_error"', '"writen_error"'),
        ("a patient forgotten", 5, "F is missing", '"F":', '"G":'),
        ("a symptom that all share", 5, "predicts no change", '"discriminator_gradient", 0.0, 0.01', '"l1", 0.4, 0.7'),
    ],
    "mended": [
        ("still −1 to 1", 5, "to_batch", " / 255", " / 127.5 - 1"),
        ("each picture its own range", 5, None, " / 255", " / images.max()"),
        ("mask swapped", 5, "what is in the hole", "image * (1 - mask)", "image * mask"),
        ("hole and known both hidden", 5, "known pixels", "image * (1 - mask)", "image * (1 - mask) * 0"),
        ("the fourth channel swapped", 5, "fourth channel", "image * (1 - mask), mask", "image * (1 - mask), 1 - mask"),
        ("not frozen", 5, None, "networks.discriminator.requires_grad_(False)", "pass"),
        ("frozen for ever", 5, None, "networks.discriminator.requires_grad_(True)", "pass"),
        (
            "prediction detached", 5, None,
            "losses(networks, batch, prediction)", "losses(networks, batch, prediction.detach())"
        ),
        ("half precision", 5, None, "rfft2(x.float(),", "rfft2(half(x).float(),"),
        ("another norm", 5, None, 'x.float(), norm="ortho"', "x.float()"),
        ("stays in evaluation mode", 5, None, "network.train()", "pass"),
        ("predicts in training mode", 5, None, "network.eval()", "pass"),
        ("raw weights", 5, "best", "average.module", "generator"),
        ("a name that is not there", 5, "predict runs without an error: NameError", "with torch.no", "with torsch.no"),
        ("a part forgotten", 5, "not mended yet", "to_batch=to_batch, ", ""),
    ],
}  # fmt: skip

DIAGNOSES = (
    "return {'A': ('fourier', 'not_finite', 0.0, 0.1), 'B': ('shown', 'input_mean', 0.25, 0.4), "
    "'C': ('best', 'off_average', 0.0, 0.001), 'D': ('to_batch', 'written_error', 0.0, 0.01), "
    "'E': ('predict', 'statistics_moved', 0.005, 0.05), "
    "'F': ('generator_gradients', 'discriminator_gradient', 0.0, 0.01)}"
)

EQUIVALENT = {  # `make mutants`
    "move_generator": [("discriminator.requires_grad_(True)", "discriminator.requires_grad_()")],
    "move_discriminator": [
        (
            "fake = losses.fake_target(mask, fake_logits.shape[-2:], weights.mask_target)",
            "fake = losses.fake_target(mask, fake_logits.shape[2:], weights.mask_target)",
        )
    ],
    "diagnoses": [(DIAGNOSES, ...)],
    "mended": [
        ("networks.discriminator.requires_grad_(True)", "networks.discriminator.requires_grad_()"),
        (
            "return Batch(images.permute(0, 3, 1, 2).float() / 255, masks[:, None].float())",
            "return Batch(images.permute(0, 3, 1, 2) / 255, masks[:, None].float())",
        ),
        (
            "return Batch(images.permute(0, 3, 1, 2).float() / 255, masks[:, None].float())",
            "return Batch(images.permute(0, 3, 1, -2).float() / 255, masks[:, None].float())",
        ),
        (
            "return torch.fft.irfft2(spectrum, s=x.shape[-2:], norm='ortho').to(x.dtype)",
            "return torch.fft.irfft2(spectrum, s=x.shape[2:], norm='ortho').to(x.dtype)",
        ),
    ],
}
