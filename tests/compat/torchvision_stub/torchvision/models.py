model_urls: dict[str, str] = {}
