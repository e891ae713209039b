"""All benchmarks, as ``make bench`` runs them."""

from benchmarks import attack, certification, defense, label_attack, memory

attack.main()
label_attack.main()
certification.main()
defense.main()
memory.main()
