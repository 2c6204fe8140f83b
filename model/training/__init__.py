"""What training needs: the objective, and the average of the weights that is served."""
