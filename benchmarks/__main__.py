"""All benchmarks, as ``make bench`` runs them."""

from benchmarks import attack, certification, defense, label_attack, learned_optimizer, memory

attack.main()
label_attack.main()
certification.main()
defense.main()
learned_optimizer.main()
memory.main()
