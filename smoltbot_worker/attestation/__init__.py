"""How anyone can prove what was judged: commitments, hash chains, Merkle trees, signatures and their verification."""
