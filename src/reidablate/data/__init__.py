"""From a data set folder to training batches: formats, index, cache, sampler, augmentation."""
