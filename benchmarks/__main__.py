"""All benchmarks, as ``make bench`` runs them."""

from benchmarks import attack, certification, defense, memory

attack.main()
certification.main()
defense.main()
memory.main()
