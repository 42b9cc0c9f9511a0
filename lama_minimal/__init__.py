"""LaMa, large-mask inpainting with fast Fourier convolutions (Suvorov et al., WACV 2022), small enough to read.

Conventions, stated once and held everywhere:

* An **image** is a float tensor in [0, 1] of shape (B, 3, H, W), RGB.
* A **mask** is a float tensor of shape (B, 1, H, W) with 1 = hole (to be filled) and 0 = known.
* A generator reads ``cat(image * (1 - mask), mask)`` and answers with a **prediction** for every pixel; the
  **composite** takes the prediction inside the hole and the image outside it.
* At the borders of the package (:class:`~lama_minimal.inference.Inpainter`, files, the command line) pictures are
  8-bit arrays of shape (H, W, 3).

Data flows one way: ``data → masks → models → losses → steps → train`` and ``checkpoint → inference → evaluate``.
Start reading at :mod:`lama_minimal.fourier`, the idea the paper is named after.
"""

__version__ = "0.1.0"
