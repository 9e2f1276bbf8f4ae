/** cashu-ts as the service uses it. */

import { CashuMint, CashuWallet } from '@cashu/cashu-ts';

/**
 * cashu-ts 2.5 chooses among keysets whose id begins with 00 and knows how to verify no other, and the mint of the tests has
 * ids of the second version (01). So the keysets are handed to it, and the choice is made here; all else is its own.
 */
class Wallet extends CashuWallet {
  getActiveKeyset(keysets) {
    const active = keysets.filter((keyset) => keyset.active);
    if (!active.length) throw new Error('No active keyset found');
    return active.sort((a, b) => (a.input_fee_ppk ?? 0) - (b.input_fee_ppk ?? 0))[0];
  }
}

/** A wallet with what the mint says of its keysets just now, so that a rotated keyset is met at the next operation. */
export async function openWallet(mintUrl, unit) {
  const mint = new CashuMint(mintUrl);
  const keysets = (await mint.getKeySets()).keysets.filter((keyset) => keyset.unit === unit);
  const keys = (await mint.getKeys()).keysets.filter((keyset) => keyset.unit === unit);
  return new Wallet(mint, { unit, keysets, keys });
}

/** Proofs of documents as cashu-ts takes them. */
export const plain = (proofs) =>
  proofs.map(({ id, amount, secret, C, witness, dleq }) => ({
    id,
    amount,
    secret,
    C,
    ...(witness ? { witness } : {}),
    ...(dleq?.e ? { dleq: { e: dleq.e, s: dleq.s, r: dleq.r } } : {}),
  }));

export const sum = (proofs) => proofs.reduce((total, proof) => total + proof.amount, 0);

/** Those of `proofs` that are among `others` too, by secret. */
export const unchanged = (proofs, others) => {
  const known = new Set(others.map((proof) => proof.secret));
  return proofs.filter((proof) => known.has(proof.secret));
};

/**
 * `amount` out of `proofs`, the fee of spending it included: {keep, send}. cashu-ts swaps as few proofs as it needs and keeps
 * the others unchanged; where its choice leaves no room for the fee, everything is swapped.
 */
export async function part(wallet, amount, proofs) {
  try {
    return await wallet.send(amount, [...proofs], { includeFees: true, includeDleq: false });
  } catch (error) {
    if (!/^Not enough funds available/.test(error.message)) throw error;
    return await wallet.swap(amount, [...proofs], { includeFees: true });
  }
}
