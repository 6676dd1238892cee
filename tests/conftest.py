import hypothesis

# shared machines are noisy: what is slow is no finding here
hypothesis.settings.register_profile("triocast", deadline=None)
hypothesis.settings.load_profile("triocast")
