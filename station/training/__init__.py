"""From labelled pictures to a weights file, and what that file is worth. The daemon never imports it.

The pictures
    dataset         a folder a class -> samples with hashes and warnings, split or folded; picture_file looks at one file
    pretrained      VGG16's trunk from a file, or ImageNet's through torchvision
`station train`
    product         from pictures to weights and a recipe that are a pair at every moment; recipe_file edits recipe.yaml
    train           sec. 3.1 from top to bottom: settings, phases, the weights file with its card
    phases          phase 1, phase 2, from scratch: each from a network to the same network, better
    held_trunk      phase 1's pictures: passed through the trunk once, kept by trunk_cache, reduced by moments, whitened by whitening
    pictures        phase 2's pictures, at the network's size; batch_norm for a start from random weights
    descent         one run of Adam: accumulation, early stop, resumed from checkpoint, shared among workers, told to training_log
    crossvalidate   head and epochs chosen by folds
    golden          pictures by which a weights file is verified wherever it is loaded
`station evaluate` and `station tune`
    look            what was said of one picture, and what the Gate would have let pass
    evaluate        Eq. 7-11 over looks, with bounds; localization against ground_truth; curves over limits
    page            all of it as one HTML file, with figures, worst_pictures and paper_tables
    contenders      the paper's baselines beside ours: compare takes them all through the same folds
    tune            probability limit and heat-map threshold, with the evidence, or the reason why there is none
`station weights`
    weights_folder  list, fetch, import, verify
"""
