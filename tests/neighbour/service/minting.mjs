/** Minting: a `pending` document without proofs, and the pollers that fill it or give it up by its age. */

import { randomBytes } from 'node:crypto';
import { sum } from './mint.mjs';

const FAIL_AFTER_S = 180;

/** Ask for an invoice and write down that it is awaited: {id, transaction_id, quote_id, request}. */
export async function requestMint(service, { npub, amount }) {
  const owner = await service.owner(npub);
  const wallet = await service.wallet();
  const quote = await wallet.createMintQuote(amount);
  const document = await service.models.Token.create({
    npub,
    wallet_id: owner._id,
    proofs: [],
    mint_url: owner.mint_url,
    total_amount: 0,
    status: 'pending',
    transaction_type: 'minted',
    transaction_id: `tx_minted_${Math.floor(Date.now() / 1000)}_${randomBytes(4).toString('hex')}`,
    metadata: { source: 'lightning', quote_id: quote.quote, mint_amount: amount, pending_amount: amount, expiry: quote.expiry },
  });
  return { id: document.id, transaction_id: document.transaction_id, quote_id: quote.quote, request: quote.request };
}

/**
 * One look of the poller at every `pending` document of type `minted`: {filled, failed}, their ids.
 *
 * It gives up by the document's age, whatever made it `pending`: one that somebody else reserved looks the same to it.
 */
export async function poll(service, { fail_after_s: failAfterS = FAIL_AFTER_S, id = null }) {
  const wallet = await service.wallet();
  const { Token } = service.models;
  const found = await Token.find({ status: 'pending', transaction_type: 'minted', ...(id ? { _id: id } : {}) });
  const filled = [];
  const failed = [];
  for (const document of found) {
    if (Date.now() - document.createdAt.getTime() >= failAfterS * 1000) {
      // Past the document: its validator would not have a document without proofs that is not pending.
      await Token.updateOne({ _id: document._id }, { $set: { status: 'failed' } });
      failed.push(document.id);
    } else if (!document.proofs.length && (await paid(wallet, document.metadata.quote_id))) {
      document.proofs = await wallet.mintProofs(document.metadata.mint_amount, document.metadata.quote_id);
      document.total_amount = sum(document.proofs);
      document.status = 'unspent';
      await document.save();
      filled.push(document.id);
    }
  }
  return { filled, failed };
}

const paid = async (wallet, quoteId) => Boolean(quoteId) && (await wallet.checkMintQuote(quoteId)).state === 'PAID';

/** Mint, as a user meets it: waits until the poller has filled the document or has given up. {id, status, amount}. */
export async function mint(service, { npub, amount, fail_after_s: failAfterS = FAIL_AFTER_S, poll_ms: pollMs = 200 }, steps) {
  const asked = await requestMint(service, { npub, amount });
  await steps.at('after_request', asked);
  for (;;) {
    await poll(service, { fail_after_s: failAfterS, id: asked.id });
    const document = await service.models.Token.findById(asked.id);
    if (document?.status !== 'pending') {
      return { id: asked.id, transaction_id: asked.transaction_id, status: document?.status ?? null, amount: document?.total_amount ?? 0 };
    }
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}

/** The clean-up: `pending` documents of any kind become `failed` by age, whoever reserved them. {failed}: how many. */
export async function cleanup(service, { age_s: ageS }) {
  const until = new Date(Date.now() - ageS * 1000);
  const answer = await service.models.Token.updateMany(
    { status: 'pending', createdAt: { $lte: until } },
    { $set: { status: 'failed' } },
  );
  return { failed: answer.modifiedCount };
}
