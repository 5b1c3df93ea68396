"""Models from files: the embedded one, the official checkpoint, LoRAs, real weights."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"official": ["load_official"], "tiny": ["style_lora"], "vae": ["TinyVAE"],
                            "memory": ["stream_bytes"], "real": ["load_real", "save_real"], "config": ["read_config"]}
)
