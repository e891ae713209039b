"""All benchmarks, as ``make bench`` runs them."""

from benchmarks import attack, certification, memory

attack.main()
certification.main()
memory.main()
