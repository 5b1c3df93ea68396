"""The paper's method on latents: masks, the ring cache, temporal attention, the UNet, the denoising steps."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"stream": ["StreamDenoiser"], "unet": ["StreamUNet"]}
)
