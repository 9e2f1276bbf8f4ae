/**
 * The collections as a Mongoose service declares them: `cashu_wallets` and `cashu_tokens`.
 *
 * Validators run on each save() and on nothing else: an update past the documents (updateOne, updateMany) is not looked at.
 */

import mongoose from 'mongoose';

const { Schema } = mongoose;

const sumOf = (proofs) => proofs.reduce((sum, proof) => sum + proof.amount, 0);

const walletSchema = new Schema(
  {
    npub: { type: String, required: true, match: /^npub1[a-z0-9]{58,63}$/ },
    mint_url: { type: String, required: true },
    p2pk_pubkey: { type: String, required: true },
    p2pk_privkey: { type: String, required: true },
    wallet_config: { unit: { type: String, enum: ['sat', 'msat'], default: 'sat' }, created_via: { type: String, default: 'api' } },
  },
  { timestamps: true, collection: 'cashu_wallets' },
);
walletSchema.index({ npub: 1, mint_url: 1 }, { unique: true });

const dleqSchema = new Schema({ e: String, s: String, r: String }, { _id: false });

const proofSchema = new Schema(
  {
    id: { type: String, required: true },
    amount: { type: Number, required: true, min: 1 },
    secret: { type: String, required: true },
    C: { type: String, required: true },
    witness: String,
    dleq: dleqSchema,
  },
  { id: false },
);

/** A fresh schema, since the plain index on secrets is there only for those who ask. */
function tokenSchema({ secretIndex }) {
  const schema = new Schema(
    {
      npub: { type: String, required: true },
      wallet_id: { type: Schema.Types.ObjectId, required: true },
      proofs: {
        type: [proofSchema],
        validate: {
          validator(proofs) {
            return proofs.length > 0 || this.status === 'pending';
          },
          message: 'proofs are empty',
        },
      },
      mint_url: { type: String, required: true },
      total_amount: {
        type: Number,
        required: true,
        min: 0,
        validate: {
          validator(total) {
            return total === sumOf(this.proofs);
          },
          message: 'total_amount is not the sum of the proofs',
        },
      },
      status: { type: String, enum: ['pending', 'unspent', 'spent', 'failed'], default: 'unspent' },
      transaction_type: { type: String, required: true, enum: ['received', 'sent', 'minted', 'change', 'melted'] },
      transaction_id: { type: String, required: true },
      metadata: {
        source: { type: String, required: true, enum: ['lightning', 'p2p', 'mint', 'change'] },
        parent_transaction_id: {
          type: String,
          required: [
            function parentOfChange() {
              return this.transaction_type === 'change';
            },
            'change without a parent_transaction_id',
          ],
        },
        quote_id: String,
        mint_amount: Number,
        pending_amount: Number,
        expiry: Number,
        encoded_token: String,
        used_private_key: Boolean,
        recipient_info: String,
        operation_hash: String,
        atomic_operation: Boolean,
        operation_timestamp: String,
        note: String,
      },
      spent_at: { type: Date, default: null },
    },
    { timestamps: true, collection: 'cashu_tokens' },
  );
  schema.index({ transaction_id: 1 }, { unique: true });
  schema.index({ npub: 1, status: 1 });
  schema.index({ npub: 1, mint_url: 1 });
  schema.index({ wallet_id: 1, status: 1 });
  schema.index({ 'metadata.parent_transaction_id': 1 });
  schema.index({ createdAt: -1 });
  if (secretIndex) schema.index({ 'proofs.secret': 1 });
  schema.pre('validate', function total() {
    // Only where the proofs are this save's own: a total that somebody else wrote wrongly is found, not mended.
    if (this.isNew || this.isModified('proofs')) this.total_amount = sumOf(this.proofs);
  });
  return schema;
}

/** The two models on one connection. `autoIndex` is off: indexes are made by the operation `init`, as a service's start does. */
export function modelsOf(connection, { secretIndex }) {
  return {
    Wallet: connection.model('CashuWallet', walletSchema),
    Token: connection.model('CashuToken', tokenSchema({ secretIndex })),
  };
}
